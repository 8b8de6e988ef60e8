"""How visible the edge of the mask is in an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from retouch.schema import Batch, Mask, Pixels


class SeamL1:
    """Mean step between neighbouring pixels across the mask's edge, minus the source's; about 0 is no seam.

    In grey levels, -255..255, of the edit pasted into the source at the network's size; None if the mask has no edge.
    """

    columns: ClassVar[Mapping[str, str]] = {"seam_l1": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Return the metric; it needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``seam_l1`` per entry of ``edited`` [B,H,W,3] uint8."""
        return [{"seam_l1": _seam(*entry)} for entry in zip(batch.image, edited, batch.mask, strict=True)]


def _seam(source: Pixels, edited: Pixels, mask: Mask) -> float | None:
    pasted = np.where(mask[..., None], edited, source)
    if not (mask[1:] != mask[:-1]).any() and not (mask[:, 1:] != mask[:, :-1]).any():
        return None
    return _step(pasted, mask) - _step(source, mask)


def _step(image: Pixels, mask: Mask) -> float:
    """Return the mean |difference| of the pairs of neighbours, one inside the mask and one outside."""
    levels = image.astype(np.int16)
    down = np.abs(levels[1:] - levels[:-1])[mask[1:] != mask[:-1]]
    right = np.abs(levels[:, 1:] - levels[:, :-1])[mask[:, 1:] != mask[:, :-1]]
    return float(np.concatenate([down, right]).mean())
