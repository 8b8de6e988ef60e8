"""Whether an edited face still shows the same person, by ArcFace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from retouch.errors import WeightsError
from retouch.schema import Batch, Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from retouch.models.arcface import ArcFace


class IdentitySimilarity:
    """Cosine of ArcFace's embeddings of source and edited image; 1 for equal images, about 0 for strangers; -1..1.

    Both images must show a face aligned as in FFHQ, and are cropped to where such a face lies. No face is detected: the
    number is meaningless for other images.
    """

    columns: ClassVar[Mapping[str, str]] = {"identity_similarity": "float64"}

    def __init__(self, arcface: ArcFace) -> None:
        self.arcface = arcface

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Load the ArcFace of role ``arcface``, ``model_ir_se50.pth``.

        Raises:
            WeightsError: the role is missing, or its file does not load.
        """
        from retouch.models.arcface import load_arcface

        if "arcface" not in weights:
            raise WeightsError(
                "metric identity_similarity needs weights of role 'arcface' (model_ir_se50.pth); name them"
            )
        return cls(load_arcface(weights["arcface"], device))

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``identity_similarity`` per entry of ``edited`` [B,H,W,3] uint8."""
        # One at a time: kernels round differently per batch size, and a score must not depend on its batch mates.
        return [{"identity_similarity": self._score(*pair)} for pair in zip(batch.image, edited, strict=True)]

    def _score(self, image: Pixels, edited: Pixels) -> float:
        import torch

        from retouch.models.arcface import identity_loss

        with torch.no_grad():
            return 1 - float(identity_loss(self.arcface, self._tensor(edited), self._tensor(image))[0])

    def _tensor(self, pixels: Pixels) -> Tensor:
        """Return pixels [H,W,3] uint8 as [1,3,H,W] in [-1,1]."""
        import torch

        return torch.tensor(pixels).to(self.arcface.device).permute(2, 0, 1)[None] / 127.5 - 1
