"""Which part of an image the network sees, and how its edit comes back exactly. Knows neither files nor networks.

``View`` is what any such part can do; the upright rectangle is here, the turned square in ``quads``. Arrays are
``[H, W, 3]`` uint8; a mask is ``[H, W]`` bool, True = edit. ``images`` re-exports all of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from retouch.schema import Mask, Pixels

Plane = npt.NDArray[np.uint8]  # [H, W]
CONTEXT: Final = 0.5  # of the mask's longer side, on every side: the network sees twice the mask's width


class View(Protocol):
    """A part of an image: what the network sees of it, and how its edit comes back. Can be pickled."""

    def extract(self, pixels: Pixels, size: int) -> Pixels:
        """The part's pixels at the network's size, [size, size, 3]."""

    def extract_mask(self, mask: Mask, size: int) -> Mask:
        """The part's mask at the network's size, [size, size]; False beyond the image."""

    def composite(self, source: Pixels, edited: Pixels, mask: Mask) -> Pixels:
        """The source [H, W, 3] with ``edited`` [S, S, 3] inside mask and footprint, at native size."""

    def footprint(self, size: tuple[int, int]) -> Mask:
        """Which pixels of an image of (H, W) it covers; no other one can come back changed."""


@dataclass(frozen=True)
class Region:
    """A rectangle of the native image, ``x1`` and ``y1`` exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """In native pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """In native pixels."""
        return self.y1 - self.y0

    @property
    def slices(self) -> tuple[slice, slice]:
        """To index an array [H, W, ...] with."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def extract(self, pixels: Pixels, size: int) -> Pixels:
        """LANCZOS; an exact copy where no scaling is needed."""
        return _resize(np.ascontiguousarray(pixels[self.slices]), size, size)

    def extract_mask(self, mask: Mask, size: int) -> Mask:
        """By NEAREST; a mask so thin that NEAREST misses all of it keeps one pixel."""
        part = mask[self.slices].copy()
        if part.shape == (size, size):
            return part
        plane = Pillow.fromarray(part.astype(np.uint8)).resize((size, size), Pillow.Resampling.NEAREST)
        scaled = np.asarray(plane).astype(bool)
        if part.any() and not scaled.any():
            rows, columns = np.nonzero(part)
            middle = len(rows) // 2
            scaled[rows[middle] * size // part.shape[0], columns[middle] * size // part.shape[1]] = True
        return scaled

    def composite(self, source: Pixels, edited: Pixels, mask: Mask) -> Pixels:
        """Scaled back with LANCZOS; inside the mask lies the edit alone."""
        out = source.copy()
        inside = mask[self.slices]
        out[self.slices][inside] = _resize(edited, self.height, self.width)[inside]
        return out

    def footprint(self, size: tuple[int, int]) -> Mask:
        """The rectangle."""
        inside = np.zeros(size, dtype=bool)
        inside[self.slices] = True
        return inside


def whole(size: tuple[int, int]) -> Mask:
    """The mask (H, W) that edits everything."""
    return np.ones(size, dtype=bool)


def fit_region(
    mask: Mask, network_size: int, *, mode: Literal["auto", "crop", "resize"] = "auto", context: float = CONTEXT
) -> Region:
    """What of an image the network sees.

    ``resize`` is the whole image, its aspect ratio not kept, as the original authors do. ``crop`` is a square around
    the mask with context, at least the network's size where the image has it, moved inside the borders; where the mask
    fits into no square of the image, the smallest such rectangle. ``auto`` crops where the image is larger than the
    network in some direction and a square holds the whole mask, and resizes elsewhere.

    Args:
        mask: [H, W] at native size; an empty one is taken as the whole image.
        network_size: S, the network's height and width.
        mode: see above.
        context: share of the mask's longer side that is added on every side.
    """
    height, width = mask.shape
    everything = Region(0, 0, width, height)
    if mode == "resize" or max(height, width) <= network_size or not mask.any():
        return everything
    box = _bounds(mask)
    longer = max(box.width, box.height)
    side = min(max(network_size, math.ceil(longer * (1 + 2 * context))), max(longer, min(height, width)))
    if mode == "auto" and side > min(height, width):
        return everything
    x0, x1 = _interval(box.x0, box.x1, side, width)
    y0, y1 = _interval(box.y0, box.y1, side, height)
    return Region(x0, y0, x1, y1)


def resize(pixels: Pixels, size: int) -> Pixels:
    """[H, W, 3] to [size, size, 3] with LANCZOS; the aspect ratio is not kept."""
    return _resize(pixels, size, size)


def extract(pixels: Pixels, region: View, size: int) -> Pixels:
    """The region's pixels at the network's size, [size, size, 3]."""
    return region.extract(pixels, size)


def extract_mask(mask: Mask, region: View, size: int) -> Mask:
    """The region's mask at the network's size, [size, size].

    A mask of which the region holds a pixel keeps one: an edit of nothing would be no answer.
    """
    return region.extract_mask(mask, size)


def composite(source: Pixels, edited: Pixels, mask: Mask, region: View) -> Pixels:
    """The source with the edit inside the mask, at native size; all other pixels equal the source's, bit for bit.

    Args:
        source: [H, W, 3].
        edited: [S, S, 3], what the network made of ``region``.
        mask: [H, W] at native size; what lies outside the region's footprint stays.
        region: what ``extract`` was given.
    """
    return region.composite(source, edited, mask)


def changed_outside(source: Pixels, output: Pixels, mask: Mask) -> int:
    """How many pixels outside the mask differ in any channel."""
    differs = source != output
    # Channel by channel: ``any`` over an axis of 3 takes 4 times as long.
    return int(((differs[..., 0] | differs[..., 1] | differs[..., 2]) & ~mask).sum())


def opaque_inside(alpha: Plane | None, mask: Mask) -> Plane | None:
    """Alpha [H, W] with what was edited made opaque, so that it is seen; None stays None."""
    return None if alpha is None else np.where(mask, np.uint8(255), alpha)


def _bounds(mask: Mask) -> Region:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Region(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _interval(start: int, stop: int, side: int, limit: int) -> tuple[int, int]:
    """``side`` pixels centred on start..stop, moved inside 0..limit, all of it where ``side`` is more."""
    side = min(side, limit)
    first = min(max((start + stop - side) // 2, 0), limit - side)
    return first, first + side


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels.copy()
    return np.asarray(Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.LANCZOS)).copy()
