"""Boxes of an image: which count, how a hole grows beyond one, which square is shown. Knows no pixels.

A box is x0, y0, x1, y1 in pixels, ends exclusive. Every random number is an integer between two bounds, drawn in the
order of the published code (Yang et al. 2022), so that its recorded draws give its boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

Box = tuple[int, int, int, int]

EXTEND: Final = 0.4  # most of the free space on a side by which a hole grows beyond its box
INSET: Final = 0.6  # most of the free space around the hole by which the shown square shrinks


class Draws(Protocol):
    """What boxes and shapes draw from: ``Dice``, or given numbers in a test."""

    def integer(self, low: int, high: int) -> int:
        """Uniform in low..high, both ends included."""


class Dice:
    """Draws of one numpy generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def integer(self, low: int, high: int) -> int:
        """Uniform in low..high, both ends included."""
        return int(self._rng.integers(low, high, endpoint=True))


def usable(boxes: Sequence[Sequence[float]], width: int, height: int, least: float, most: float) -> list[Box]:
    """The boxes whose share of the image lies in [least, most], in whole pixels and within the image.

    A box whose numbers all lie in 0..1 is relative (a box of pixels in there would hold one pixel at most); any other
    is in pixels. Boxes of other than four numbers, or of none (null), are not usable.
    """
    found = []
    for numbers in boxes:
        box = _pixels(numbers, width, height)
        if box is not None and least <= area(box) / (width * height) <= most:
            found.append(box)
    return found


def area(box: Box) -> int:
    """Pixels inside, 0 of a box without any."""
    x0, y0, x1, y1 = box
    return max(x1 - x0, 0) * max(y1 - y0, 0)


def _pixels(numbers: Sequence[float] | None, width: int, height: int) -> Box | None:
    if numbers is None or len(numbers) != 4 or any(n is None or not np.isfinite(n) for n in numbers):
        return None
    x0, y0, x1, y1 = (float(n) for n in numbers)
    if all(0 <= n <= 1 for n in (x0, y0, x1, y1)):
        x0, y0, x1, y1 = x0 * width, y0 * height, x1 * width, y1 * height
    left, right = (min(max(round(x), 0), width) for x in (x0, x1))
    top, bottom = (min(max(round(y), 0), height) for y in (y0, y1))
    return left, top, right, bottom


def extended(draws: Draws, box: Box, width: int, height: int) -> Box:
    """The box with each side pushed outward, by nothing up to ``EXTEND`` of the space that it has there."""
    x0, y0, x1, y1 = box
    left = x0 - draws.integer(0, int(EXTEND * x0))
    top = y0 - draws.integer(0, int(EXTEND * y0))
    right = x1 + draws.integer(0, int(EXTEND * (width - x1)))
    bottom = y1 + draws.integer(0, int(EXTEND * (height - y1)))
    return left, top, right, bottom


def square_window(draws: Draws, inside: Box, width: int, height: int) -> Box:
    """The square of an image that is shown: of the shorter side's length around ``inside``, then a little smaller.

    A square image is shown whole, and so is one in which no such square holds ``inside``: it is squashed.
    """
    whole = (0, 0, width, height)
    x0, y0, x1, y1 = inside
    if width > height:
        if x1 - x0 > height:
            return whole
        left = draws.integer(max(0, x1 - height), min(x0, width - height))
        window = (left, 0, left + height, height)
    elif height > width:
        if y1 - y0 > width:
            return whole
        top = draws.integer(max(0, y1 - width), min(y0, height - width))
        window = (0, top, width, top + width)
    else:
        return whole
    free = min(x0 - window[0], window[2] - x1, y0 - window[1], window[3] - y1)
    inset = draws.integer(0, int(INSET * free))
    return window[0] + inset, window[1] + inset, window[2] - inset, window[3] - inset


def padded(box: Box, pad: int, width: int, height: int) -> Box:
    """The box with ``pad`` pixels around it, as far as the image goes."""
    x0, y0, x1, y1 = box
    return max(x0 - pad, 0), max(y0 - pad, 0), min(x1 + pad, width), min(y1 + pad, height)
