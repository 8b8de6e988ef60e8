"""How far the model shifted an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from retouch.imaging import alignment
from retouch.schema import Batch, Mask, Pixels


class ShiftPx:
    """Distance by which an edit is shifted against its source, in pixels of the network's image.

    Measured outside the mask, or over the whole image if there is no mask; see ``alignment.measure``. None if it cannot
    be measured. With the job's ``align``, what is left after moving the edit back.
    """

    columns: ClassVar[Mapping[str, str]] = {"shift_px": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Return the metric; it needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``shift_px`` per entry of ``edited`` [B,H,W,3] uint8."""
        return [{"shift_px": _distance(*entry)} for entry in zip(batch.image, edited, batch.mask, strict=True)]


def _distance(source: Pixels, edited: Pixels, mask: Mask) -> float | None:
    shift = alignment.measure(source, edited, alignment.compared(mask))
    return None if shift is None else math.hypot(*shift)
