"""Whether an edited face is still the same person's, by ArcFace. Knows neither editors nor files.

Importing this brings no torch, see ``editors.declared``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from retouch.errors import WeightsError
from retouch.schema import Batch, Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from retouch.models.arcface import ArcFace


class IdentitySimilarity:
    """Cosine of ArcFace's vectors of source and edited image; 1 for the same image, about 0 for strangers, at least -1.

    Both are taken as faces aligned the way FFHQ's are, and cut where such a face lies. It finds no face: of another
    image the number means nothing.
    """

    columns: ClassVar[Mapping[str, str]] = {"identity_similarity": "float64"}

    def __init__(self, arcface: ArcFace) -> None:
        self.arcface = arcface

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Read the ArcFace of role ``arcface``, ``model_ir_se50.pth``.

        Raises:
            WeightsError: there is none, or it does not load.
        """
        from retouch.models.arcface import load_arcface

        if "arcface" not in weights:
            raise WeightsError(
                "metric identity_similarity needs weights of role 'arcface' (model_ir_se50.pth); name them"
            )
        return cls(load_arcface(weights["arcface"], device))

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """One ``identity_similarity`` an entry; ``edited`` [B,H,W,3] uint8."""
        # One at a time: kernels round differently for other batch sizes, and a score must not hang on its neighbours.
        return [{"identity_similarity": self._score(*pair)} for pair in zip(batch.image, edited, strict=True)]

    def _score(self, image: Pixels, edited: Pixels) -> float:
        import torch

        from retouch.models.arcface import identity_loss

        with torch.no_grad():
            return 1 - float(identity_loss(self.arcface, self._tensor(edited), self._tensor(image))[0])

    def _tensor(self, pixels: Pixels) -> Tensor:
        """[1,3,H,W] in [-1,1] from [H,W,3] uint8."""
        import torch

        return torch.tensor(pixels).to(self.arcface.device).permute(2, 0, 1)[None] / 127.5 - 1
