"""How much an edit left of the structure outside the mask. Knows neither editors nor files.

Beside ``background``'s distances; of images that this package composed it is 1, so it is meant for other systems'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from retouch.metrics.source_distance import SourceSsim
from retouch.schema import Batch, Pixels

GREY = 128


class BackgroundSsim:
    """Structural similarity of edited and source outside the mask, the inside mid-grey in both, as for LPIPS.

    1 for equal backgrounds, whatever the edit, for a window at the mask's rim sees grey beyond it; at least -1. None
    where the mask is everything.
    """

    columns: ClassVar[Mapping[str, str]] = {"background_ssim": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """One ``background_ssim`` an entry; ``edited`` [B,H,W,3] uint8."""
        inside = batch.mask[..., None]
        grey = np.uint8(GREY)
        outside = replace(batch, image=np.where(inside, grey, batch.image), mask=~batch.mask)
        scores = SourceSsim().score_batch(outside, np.where(inside, grey, edited))
        return [{"background_ssim": score["source_ssim"]} for score in scores]
