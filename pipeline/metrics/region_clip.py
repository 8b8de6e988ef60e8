"""How much the edited region looks like its exemplar, by CLIP. Knows neither editors nor files.

A CLIP that an editor was trained with or ranks by flatters it; judge with another one where the number matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from pipeline.errors import WeightsError
from pipeline.metrics.clip_image import clip_image
from pipeline.models.clip import Clip, load_clip
from pipeline.schema import Batch, Mask, Pixels


class RegionClip:
    """``region_clip``: 100 x cosine of CLIP's vectors of the edited crop and the exemplar; -100..100, 100 when equal.

    The crop is the mask's bounding box; crop and exemplar go the same way, squashed to CLIP's size (bicubic,
    antialiased). None where the row has no exemplar or the mask no pixel.

    With ``parity`` it is the published script of Paint by Example (``region_clip_score.py``, OpenAI's ViT-B/32): the
    box is read off the mask's first and last pixel in raster order and loses its last row and column, and the crop is
    resized bilinearly without antialiasing after CLIP's normalisation, while the exemplar is resized as a file. None
    where nothing is left of such a box.
    """

    columns: ClassVar[Mapping[str, str]] = {"region_clip": "float64"}

    def __init__(self, clip: Clip, parity: bool = False) -> None:
        self.clip = clip
        self.parity = parity

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, parity: bool = False) -> Self:
        """Read the CLIP of role ``clip``.

        Raises:
            WeightsError: there is none, or it does not load.
        """
        if "clip" not in weights:
            raise WeightsError("metric region_clip needs weights of role 'clip'; name them in the job's weights")
        return cls(load_clip(weights["clip"], device), parity)

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """One ``region_clip`` an entry; ``edited`` [B,H,W,3] uint8."""
        exemplars = [None] * len(batch) if batch.exemplar is None else batch.exemplar
        # One at a time: kernels round differently for other batch sizes, and a score must not hang on its neighbours.
        return [{"region_clip": self._score(*e)} for e in zip(edited, batch.mask, exemplars, strict=True)]

    @torch.no_grad()
    def _score(self, edited: Pixels, mask: Mask, exemplar: Pixels | None) -> float | None:
        box = published_box(mask) if self.parity else bounding_box(mask)
        if exemplar is None or box is None:
            return None
        seen = clip_image(exemplar, self.clip, "squash")
        if self.parity:
            crop = published_crop(edited, box, self.clip)
            a, b = self.clip.encode_image(crop, normalise=False), self.clip.encode_image(seen)
        else:
            a, b = (self.clip.encode_image(x) for x in (clip_image(edited[box], self.clip, "squash"), seen))
        return 100 * float(cosine_similarity(a, b)[0])


def bounding_box(mask: Mask) -> tuple[slice, slice] | None:
    """Rows and columns of the box around a mask's pixels; None where it has none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None


def published_box(mask: Mask) -> tuple[slice, slice] | None:
    """Rows and columns from the first to before the last pixel in raster order; None where that holds no pixel."""
    rows, columns = np.nonzero(mask)
    if not len(rows) or rows[-1] <= rows[0] or columns[-1] <= columns[0]:
        return None
    return slice(rows[0], rows[-1]), slice(columns[0], columns[-1])


def published_crop(edited: Pixels, box: tuple[slice, slice], clip: Clip) -> Tensor:
    """[1,3,S,S] on CLIP's own scale: normalised, cropped, resized bilinearly without antialiasing."""
    x = clip.normalise(torch.tensor(edited).to(clip.device).permute(2, 0, 1)[None] / 255)
    size = (clip.image_size, clip.image_size)
    return interpolate(x[:, :, box[0], box[1]], size, mode="bilinear", align_corners=False)
