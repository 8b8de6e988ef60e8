"""Boxes of a training image: which are usable, how a hole extends beyond one, which square of the image is shown.

A box is x0, y0, x1, y1 in pixels, ends exclusive. Every random number is an integer between two bounds, drawn in the
order of the published code (Yang et al. 2022), so that its recorded draws give its boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

Box = tuple[int, int, int, int]

EXTEND: Final = 0.4  # of the free space on a side: the most by which a hole extends beyond its box
INSET: Final = 0.6  # of the free space around the hole: the most by which the shown square shrinks


class Draws(Protocol):
    """A source of random integers: ``RandomDraws``, or recorded numbers in a test."""

    def integer(self, low: int, high: int) -> int:
        """Return a uniform integer in low..high, both ends included."""


class RandomDraws:
    """Draws from a numpy generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def integer(self, low: int, high: int) -> int:
        """Return a uniform integer in low..high, both ends included."""
        return int(self._rng.integers(low, high, endpoint=True))


def usable(boxes: Sequence[Sequence[float]], width: int, height: int, least: float, most: float) -> list[Box]:
    """Return the boxes whose share of the image is in [least, most], rounded to pixels and clipped to the image.

    A box whose numbers are all in 0..1 is relative (a box of pixels in there would hold one pixel at most); any other
    is in pixels. Boxes that are null or have other than four numbers are not usable.
    """
    found = []
    for numbers in boxes:
        box = _pixels(numbers, width, height)
        if box is not None and least <= area(box) / (width * height) <= most:
            found.append(box)
    return found


def area(box: Box) -> int:
    """Return the number of pixels in a box."""
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
    """Return the box with each side moved outward by 0 to ``EXTEND`` of the free space there."""
    x0, y0, x1, y1 = box
    left = x0 - draws.integer(0, int(EXTEND * x0))
    top = y0 - draws.integer(0, int(EXTEND * y0))
    right = x1 + draws.integer(0, int(EXTEND * (width - x1)))
    bottom = y1 + draws.integer(0, int(EXTEND * (height - y1)))
    return left, top, right, bottom


def square_window(draws: Draws, inside: Box, width: int, height: int) -> Box:
    """Return the square of an image to show: of the shorter side's length around ``inside``, then a little smaller.

    A square image is shown whole. So is one in which no such square holds ``inside``; it is squashed later.
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
    """Return the box with ``pad`` pixels around it, clipped to the image."""
    x0, y0, x1, y1 = box
    return max(x0 - pad, 0), max(y0 - pad, 0), min(x1 + pad, width), min(y1 + pad, height)
