"""How similar the edited region is to its exemplar, by CLIP.

A CLIP that an editor was trained with or ranks by overrates it; use another one where the number matters.
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


class RegionClip:
    """``region_clip``: 100 x cosine of CLIP's embeddings of edited crop and exemplar; -100..100, 100 if they are equal.

    The crop is the mask's bounding box; crop and exemplar are both squashed to CLIP's size (bicubic, antialiased). None
    if the row has no exemplar or the mask is empty.

    ``parity`` reproduces the published script of Paint by Example (``region_clip_score.py``, OpenAI's ViT-B/32): the
    box spans the mask's first and last pixel in raster order without its last row and column, and the crop is resized
    bilinearly without antialiasing after CLIP's normalisation, while the exemplar is resized as a file. None if such a
    box is empty.
    """

    columns: ClassVar[Mapping[str, str]] = {"region_clip": "float64"}

    def __init__(self, clip: Clip, parity: bool = False) -> None:
        self.clip = clip
        self.parity = parity

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, parity: bool = False) -> Self:
        """Load the CLIP of role ``clip``.

        Raises:
            WeightsError: the role is missing, or its file does not load.
        """
        from retouch.models.clip import load_clip

        if "clip" not in weights:
            raise WeightsError("metric region_clip needs weights of role 'clip'; name them in the job's weights")
        return cls(load_clip(weights["clip"], device), parity)

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``region_clip`` per entry of ``edited`` [B,H,W,3] uint8."""
        exemplars = [None] * len(batch) if batch.exemplar is None else batch.exemplar
        # One at a time: kernels round differently per batch size, and a score must not depend on its batch mates.
        return [{"region_clip": self._score(*e)} for e in zip(edited, batch.mask, exemplars, strict=True)]

    def _score(self, edited: Pixels, mask: Mask, exemplar: Pixels | None) -> float | None:
        import torch

        box = published_box(mask) if self.parity else bounding_box(mask)
        if exemplar is None or box is None:
            return None
        with torch.no_grad():
            return 100 * float(torch.cosine_similarity(*self._embeddings(edited, box, exemplar))[0])

    def _embeddings(self, edited: Pixels, box: tuple[slice, slice], exemplar: Pixels) -> tuple[Tensor, Tensor]:
        from retouch.metrics.clip_preprocess import clip_image

        wanted = self.clip.encode_image(clip_image(exemplar, self.clip, "squash"))
        if self.parity:
            return self.clip.encode_image(published_crop(edited, box, self.clip), normalise=False), wanted
        return self.clip.encode_image(clip_image(edited[box], self.clip, "squash")), wanted


def bounding_box(mask: Mask) -> tuple[slice, slice] | None:
    """Return rows and columns of the box around a mask's pixels; None if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None


def published_box(mask: Mask) -> tuple[slice, slice] | None:
    """Return rows and columns from the first to before the last pixel in raster order; None if that box is empty."""
    rows, columns = np.nonzero(mask)
    if not len(rows) or rows[-1] <= rows[0] or columns[-1] <= columns[0]:
        return None
    return slice(rows[0], rows[-1]), slice(columns[0], columns[-1])


def published_crop(edited: Pixels, box: tuple[slice, slice], clip: Clip) -> Tensor:
    """Return the crop [1,3,S,S] on CLIP's own scale: normalised, cropped, resized bilinearly without antialiasing."""
    import torch
    from torch.nn.functional import interpolate

    x = clip.normalise(torch.tensor(edited).to(clip.device).permute(2, 0, 1)[None] / 255)
    size = (clip.image_size, clip.image_size)
    return interpolate(x[:, :, box[0], box[1]], size, mode="bilinear", align_corners=False)
