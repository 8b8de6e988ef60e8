"""The part of an image that the network sees, and how its edit is put back.

``View`` is the protocol; ``Region`` is an upright rectangle, ``quad.Quad`` a rotated square. Arrays are ``[H, W, 3]``
uint8; a mask is ``[H, W]`` bool, True = edit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from retouch.schema import Mask, Pixels

Size = tuple[int, int]  # height, width
Plane = npt.NDArray[np.uint8]  # [H, W]
Weights = npt.NDArray[np.float32]  # [H, W]
CONTEXT: Final = 0.5  # fraction of the mask's longer side, added on every side: the network sees twice the mask's width


class View(Protocol):
    """A part of an image: what the network sees, and where its edit goes. Must be picklable."""

    @property
    def feather(self) -> int:
        """Return over how many native pixels the edit fades in, from the mask's edge inwards."""

    @property
    def shape(self) -> Size:
        """Return height and width in native pixels."""

    def extract(self, pixels: Pixels, size: Size) -> Pixels:
        """Return the part's pixels at the network's size (H, W), [H, W, 3]."""

    def extract_mask(self, mask: Mask, size: Size) -> Mask:
        """Return the part's mask at the network's size, [H, W]; False outside the image.

        A mask with a pixel inside the part keeps at least one.
        """

    def composite(self, source: Pixels, edited: Pixels, mask: Mask, alpha: Plane | None = None) -> Pixels:
        """Return the source [H, W, 3] with ``edited`` [h, w, 3] inside mask and footprint, at native size.

        All other pixels equal the source's, bit for bit. The less opaque a pixel of the source is (``alpha`` [H, W]),
        the less of its colour is blended into a fading edit.
        """

    def weights(self, mask: Mask) -> Weights:
        """Return how much of the edit each pixel [H, W] shows by ``feather``: 0 outside the mask, 1 deep inside."""

    def footprint(self, size: Size) -> Mask:
        """Return which pixels of an image of (H, W) the part covers; ``composite`` changes no others."""


@dataclass(frozen=True)
class Region:
    """A rectangle of the native image, ``x1`` and ``y1`` exclusive."""

    x0: int
    y0: int
    x1: int
    y1: int
    feather: int = 0  # pixels over which the edit fades in, from the mask's edge inwards

    @property
    def width(self) -> int:
        """Return the width in native pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Return the height in native pixels."""
        return self.y1 - self.y0

    @property
    def shape(self) -> Size:
        """Return height and width in native pixels."""
        return self.height, self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return the index of this rectangle in an array [H, W, ...]."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def extract(self, pixels: Pixels, size: Size) -> Pixels:
        """Scale with LANCZOS; an exact copy if no scaling is needed."""
        return resize(np.ascontiguousarray(pixels[self.slices]), *size)

    def extract_mask(self, mask: Mask, size: Size) -> Mask:
        """Scale with NEAREST; a mask so thin that NEAREST misses all of it keeps one pixel."""
        part = mask[self.slices].copy()
        if part.shape == size:
            return part
        plane = Pillow.fromarray(part.astype(np.uint8)).resize((size[1], size[0]), Pillow.Resampling.NEAREST)
        scaled = np.asarray(plane).astype(bool)
        if part.any() and not scaled.any():
            rows, columns = np.nonzero(part)
            middle = len(rows) // 2
            scaled[rows[middle] * size[0] // part.shape[0], columns[middle] * size[1] // part.shape[1]] = True
        return scaled

    def composite(self, source: Pixels, edited: Pixels, mask: Mask, alpha: Plane | None = None) -> Pixels:
        """Scale the edit back with LANCZOS and copy it where the mask is True, or blend it over ``feather`` pixels."""
        out = source.copy()
        inside = mask[self.slices]
        part, back = out[self.slices], resize(edited, self.height, self.width)
        if self.feather:
            back = blended(part, back, self._weights(mask), None if alpha is None else alpha[self.slices])
        part[inside] = back[inside]
        return out

    def weights(self, mask: Mask) -> Weights:
        """Return ``edge_weights`` of mask and rectangle."""
        found = np.zeros(mask.shape, np.float32)
        found[self.slices] = self._weights(mask)
        return found

    def _weights(self, mask: Mask) -> Weights:
        """Return ``edge_weights`` of the rectangle; its own borders count as edges unless they are the image's."""
        height, width = mask.shape
        left, top = min(self.x0, 1), min(self.y0, 1)
        around = Region(self.x0 - left, self.y0 - top, min(self.x1 + 1, width), min(self.y1 + 1, height))
        shown = (mask & self.footprint((height, width)))[around.slices]
        return edge_weights(shown, self.feather)[top : top + self.height, left : left + self.width]

    def footprint(self, size: tuple[int, int]) -> Mask:
        """Return the rectangle as a mask."""
        inside = np.zeros(size, dtype=bool)
        inside[self.slices] = True
        return inside


def edge_weights(mask: Mask, feather: int) -> Weights:
    """Return how much of an edit each pixel shows: 0 outside the mask, rising linearly over ``feather`` pixels, then 1.

    A pixel's depth is its distance to the nearest one outside the mask, so that the outermost pixels have depth 1.

    Args:
        mask: [H, W]. The image's borders are no edges.
        feather: pixels; 0 for a sharp edge.
    """
    if not feather or mask.all():
        return mask.astype(np.float32)
    depth = _distance(mask)
    return np.where(depth > feather, np.float32(1), depth / np.float32(feather + 1))


def grown(mask: Mask, pixels: int) -> Mask:
    """Return the mask [H, W] with all pixels within this distance of it; of a negative one, without those of its edge.

    Distances are between the centres of pixels. The image's borders are no edges.
    """
    if pixels == 0 or mask.all() or not mask.any():
        return mask
    return _distance(~mask) <= pixels if pixels > 0 else _distance(mask) > -pixels


def blended(before: Pixels, after: Pixels, weights: Weights, alpha: Plane | None = None) -> Pixels:
    """Return before + weights * (after - before), rounded; [H, W, 3] each, weights [H, W] in [0, 1].

    With ``alpha`` [H, W], the opacity of ``before``, its colours count as much as they are visible, so that what a
    viewer could not see in it does not appear.
    """
    if alpha is not None:
        weights = np.divide(weights, _opacity(alpha, weights) / 255, out=np.zeros_like(weights), where=weights > 0)
    mixed = before + weights[..., None] * (after.astype(np.float32) - before)
    return np.rint(mixed).astype(np.uint8)


def _distance(inside: Mask) -> Weights:
    """Return each True pixel's distance to the nearest False one, in pixels; 0 for those that are False."""
    import cv2  # slow to import

    found = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(found, np.float32)


def whole(size: tuple[int, int]) -> Mask:
    """Return the mask (H, W) that edits everything."""
    return np.ones(size, dtype=bool)


def fit_region(
    mask: Mask, network_size: int, *, mode: Literal["auto", "crop", "resize"] = "auto", context: float = CONTEXT
) -> Region:
    """Return the rectangle of an image that the network sees.

    ``resize`` is the whole image, without keeping its aspect ratio, as in the original authors' code. ``crop`` is a
    square around the mask with context, at least the network's size if the image is that large, moved inside the
    borders; if the mask fits into no square of the image, the smallest such rectangle. ``auto`` crops if the image is
    larger than the network in some direction and a square holds the whole mask, else resizes.

    Args:
        mask: [H, W] at native size; an empty mask counts as the whole image.
        network_size: S, the network's height and width.
        mode: ``resize``, ``crop`` or ``auto``.
        context: fraction of the mask's longer side that is added on every side.
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


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Return [H, W, 3] scaled to [height, width, 3] with LANCZOS; a copy if that is its size."""
    if pixels.shape[:2] == (height, width):
        return pixels.copy()
    return np.asarray(Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.LANCZOS)).copy()


def changed_outside(source: Pixels, output: Pixels, mask: Mask) -> int:
    """Return how many pixels outside the mask differ in any channel."""
    differs = source != output
    # Channel by channel: ``any`` over an axis of 3 takes 4 times as long.
    return int(((differs[..., 0] | differs[..., 1] | differs[..., 2]) & ~mask).sum())


def opaque_inside(alpha: Plane | None, mask: Mask, weights: Weights | None = None) -> Plane | None:
    """Return alpha [H, W] with the edited pixels made opaque, so that they are visible; None stays None.

    With ``weights`` [H, W] they become opaque as the edit fades in.
    """
    if alpha is None:
        return None
    opaque = np.uint8(255) if weights is None else np.rint(_opacity(alpha, weights)).astype(np.uint8)
    return np.where(mask, opaque, alpha)


def _opacity(alpha: Plane, weights: Weights) -> Weights:
    """Return the opacity 0..255 of opaque pixels over others with an alpha channel."""
    return alpha + weights * (255 - alpha.astype(np.float32))


def _bounds(mask: Mask) -> Region:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Region(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _interval(start: int, stop: int, side: int, limit: int) -> tuple[int, int]:
    """Return ``side`` pixels centred on start..stop, moved inside 0..limit; all of 0..limit if ``side`` is larger."""
    side = min(side, limit)
    first = min(max((start + stop - side) // 2, 0), limit - side)
    return first, first + side
