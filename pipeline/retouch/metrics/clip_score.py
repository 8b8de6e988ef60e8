"""How well the edited region matches its prompt, by CLIP.

A CLIP that guided the edit overrates it; use another one where the number matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from retouch.errors import WeightsError
from retouch.schema import Batch, Mask, Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from retouch.models.clip import Clip


class ClipScore:
    """100 x cosine of prompt and edited region; in -100..100, around 20 to 35 for real matches with OpenAI's CLIPs.

    The region is the smallest square inside the image that holds the mask's bounding box. It keeps the surroundings
    (half an object on grey would score as a whole one) and the proportions, and is resized (bicubic, antialiased) to
    CLIP's size. None if the prompt or the mask is empty.
    """

    columns: ClassVar[Mapping[str, str]] = {"clip_score": "float64"}

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Load the CLIP of role ``clip``.

        Raises:
            WeightsError: the role is missing, or its file does not load.
        """
        from retouch.models.clip import load_clip

        if "clip" not in weights:
            raise WeightsError("metric clip_score needs weights of role 'clip'; name them in the job's weights")
        return cls(load_clip(weights["clip"], device))

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``clip_score`` per entry of ``edited`` [B,H,W,3] uint8."""
        # One at a time: kernels round differently per batch size, and a score must not depend on its batch mates.
        return [{"clip_score": self._score(*entry)} for entry in zip(batch.prompt, batch.mask, edited, strict=True)]

    def _score(self, prompt: str, mask: Mask, edited: Pixels) -> float | None:
        import torch

        if not prompt.strip() or not mask.any():
            return None
        top, left, side = square_around(mask)
        with torch.no_grad():
            crop = torch.tensor(edited[top : top + side, left : left + side]).to(self.clip.device)
            image = self.clip.encode_image(_resized(crop.permute(2, 0, 1)[None] / 255, self.clip.image_size))
            text = self.clip.encode_text([prompt], truncate=True)
            return 100 * float(torch.cosine_similarity(image, text)[0])


def square_around(mask: Mask) -> tuple[int, int, int]:
    """Return (top, left, side) of the smallest square inside [H,W] that holds the bounding box of a non-empty mask.

    It is centred on the box as far as the borders allow. Its side is at most the smaller of H and W; of a longer box it
    holds the middle.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    side = min(max(np.ptp(rows), np.ptp(columns)) + 1, *mask.shape)
    top, left = (
        int(np.clip((ends[0] + ends[-1] + 1 - side) // 2, 0, size - side))
        for ends, size in zip((rows, columns), mask.shape, strict=True)
    )
    return top, left, int(side)


def _resized(x: Tensor, size: int) -> Tensor:
    """Return an image [1,3,H,W] as [1,3,size,size] in [0,1]; clamped, because bicubic overshoots."""
    from torch.nn.functional import interpolate

    return interpolate(x, (size, size), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
