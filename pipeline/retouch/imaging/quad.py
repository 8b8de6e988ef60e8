"""A rotated square of an image: extracted for the network, and its edit warped back.

Coordinates refer to pixel centres: (0, 0) is the centre of the top left pixel, x goes right, y down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from retouch.imaging.regions import Plane, Weights, blended, edge_weights
from retouch.schema import Mask, Pixels

Array = npt.NDArray[np.float64]
Window = tuple[slice, slice]

# Fraction of the side: 8 pixels of 256. Wide enough to hide a step of a few levels, narrow enough that a face, which
# spans the middle two thirds of its FFHQ square, is entirely the edit.
FEATHER: Final = 1 / 32
# Fraction of the side, FFHQ's smallest padding: at this distance from the border the mirrored image has faded into the
# median colour, so that no second face appears. FFHQ also blurs, but starting inside the border, where the edit goes.
FADE: Final = 0.3
_MARGIN: Final = 3  # cells around the quad that bicubic samples may read


@dataclass(frozen=True)
class Quad:
    """A square, or any parallelogram, that may be rotated and may extend beyond the image."""

    corners: tuple[tuple[float, float], ...]  # 4 of (x, y): top left, bottom left, bottom right, top right
    feather: int = 0  # pixels of the image over which the edit fades in, from the mask's edge inwards

    @classmethod
    def of(cls, corners: npt.ArrayLike | Iterable[Iterable[float]]) -> Quad:
        """Return the quad with corners [4, 2]."""
        return cls(tuple((float(x), float(y)) for x, y in np.asarray(corners, np.float64)))

    @property
    def side(self) -> float:
        """Return the side in native pixels; of a parallelogram the longer one."""
        return float(max(np.hypot(*self._edges[:, 0]), np.hypot(*self._edges[:, 1])))

    @property
    def shape(self) -> tuple[int, int]:
        """Return height and width in native pixels, rounded."""
        return round(self.side), round(self.side)

    def extract(self, pixels: Pixels, size: tuple[int, int]) -> Pixels:
        """Return the square upright at the network's size, [S, S, 3].

        Averaged without aliasing: first over cells if the square is over four times the network's size, then over
        samples at most one cell apart. Outside the image lies its fading mirror image (``FADE``).

        Args:
            pixels: [H, W, 3].
            size: (S, S).
        """
        side = _square(size)
        cell = max(1, math.floor(self.side / side / 2))
        near, start = self._surroundings(pixels, cell)
        samples = side * max(1, math.ceil(self.side / cell / side))
        step = self._edges / samples / cell
        offset = (self._origin + 0.5) / cell - start
        coefficients = (*step[0], offset[0], *step[1], offset[1])
        seen = _warped(near, (samples, samples), coefficients)
        return np.asarray(seen.reduce(samples // side)).copy()

    def extract_mask(self, mask: Mask, size: tuple[int, int]) -> Mask:
        """Return the mask upright at the network's size, [S, S], by NEAREST; False outside the image.

        A mask so thin that NEAREST misses all of it keeps one pixel, so that every row edits something.
        """
        side = _square(size)
        middles = (np.arange(side) + 0.5) / side
        across, down = np.meshgrid(middles, middles)
        x, y = (np.floor(place + 0.5) for place in self._at(across, down))
        height, width = mask.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        seen = np.zeros((side, side), dtype=bool)
        seen[inside] = mask[y[inside].astype(int), x[inside].astype(int)]
        rows, columns = np.nonzero(mask & self.footprint((height, width)))
        if len(rows) and not seen.any():
            middle = len(rows) // 2
            u, v = self._inverse(columns[middle], rows[middle])
            seen[int(v * side), int(u * side)] = True
        return seen

    def composite(self, source: Pixels, edited: Pixels, mask: Mask, alpha: Plane | None = None) -> Pixels:
        """Return the source with the edit warped back, at native size; bit for bit the same outside mask and footprint.

        The edit fades in over ``FEATHER`` inside the square's edge to avoid a seam, and over ``feather`` pixels inside
        the mask's.

        Args:
            source: [H, W, 3].
            edited: [S, S, 3], the network's edit of ``extract``.
            mask: [H, W] at native size.
            alpha: [H, W], the source's opacity.
        """
        out = source.copy()
        window = self._window((source.shape[0], source.shape[1]))
        part, back, inset = out[window], self._back(edited, window), self._inset(window)
        shown = mask[window] & (inset > 0)
        fading = shown & (inset < FEATHER)
        before = part[fading]
        part[shown] = back[shown]
        weight = inset[fading][:, None] / FEATHER
        part[fading] = np.rint(before + weight * (back[fading] - before.astype(np.float64))).astype(np.uint8)
        if self.feather:
            visible = None if alpha is None else alpha[window]
            part[shown] = blended(source[window], part, self.weights(mask)[window], visible)[shown]
        return out

    def weights(self, mask: Mask) -> Weights:
        """Return ``edge_weights`` of the mask; at its own border the square fades by ``FEATHER``."""
        return edge_weights(mask, self.feather)

    def footprint(self, size: tuple[int, int]) -> Mask:
        """Return the pixels of an image of (H, W) whose centres lie inside."""
        covered = np.zeros(size, dtype=bool)
        window = self._window(size)
        covered[window] = self._inset(window) > 0
        return covered

    @property
    def _origin(self) -> Array:
        return np.array(self.corners[0])

    @property
    def _edges(self) -> Array:
        """Return [2, 2]; its columns are the steps from the left edge to the right and from the top to the bottom."""
        top_left, bottom_left, _, top_right = np.array(self.corners)
        return np.stack([top_right - top_left, bottom_left - top_left], axis=1)

    def _at(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Return the image coordinates of (u, v) in 0..1 of the square."""
        (xu, xv), (yu, yv) = self._edges
        return self._origin[0] + xu * u + xv * v, self._origin[1] + yu * u + yv * v

    def _inverse(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Array, Array]:
        """Return the (u, v) of image coordinates; inside the square both are in 0..1."""
        (ux, uy), (vx, vy) = np.linalg.inv(self._edges)
        dx, dy = np.asarray(x) - self._origin[0], np.asarray(y) - self._origin[1]
        return ux * dx + uy * dy, vx * dx + vy * dy

    def _inset(self, window: Window) -> Array:
        """Return the pixels' distance to the square's edge as a fraction of the side; negative outside."""
        rows, columns = window
        x, y = np.arange(columns.start, columns.stop), np.arange(rows.start, rows.stop)[:, None]
        u, v = self._inverse(x, y)
        return 0.5 - np.maximum(np.abs(u - 0.5), np.abs(v - 0.5))

    def _window(self, size: tuple[int, int]) -> Window:
        """Return the upright rectangle of an image of (H, W) around the square; empty if the square lies outside."""
        (x0, y0), (x1, y1) = np.array(self.corners).min(axis=0), np.array(self.corners).max(axis=0)
        height, width = size
        rows = slice(min(max(math.floor(y0), 0), height), min(max(math.ceil(y1) + 1, 0), height))
        return rows, slice(min(max(math.floor(x0), 0), width), min(max(math.ceil(x1) + 1, 0), width))

    def _surroundings(self, pixels: Pixels, cell: int) -> tuple[Pixels, Array]:
        """Return the image around the square as cells of ``cell`` pixels, and the first cell's (x, y), in cells."""
        limit = -(-np.array([pixels.shape[1], pixels.shape[0]]) // cell)
        corners = (np.array(self.corners) + 0.5) / cell
        # At least one cell of the image is needed to mirror it.
        first = np.minimum(np.floor(corners.min(axis=0)).astype(int) - _MARGIN, limit - 1)
        last = np.maximum(np.ceil(corners.max(axis=0)).astype(int) + _MARGIN, 1)
        (x0, y0), (x1, y1) = np.maximum(first, 0) * cell, np.minimum(last, limit) * cell
        part = pixels[y0:y1, x0:x1]
        part = np.pad(part, ((0, -part.shape[0] % cell), (0, -part.shape[1] % cell), (0, 0)), mode="edge")
        cells = np.asarray(Pillow.fromarray(part).reduce(cell))
        before, after = np.maximum(-first, 0), np.maximum(last - limit, 0)
        return _mirrored(cells, before, after, FADE * self.side / cell), first.astype(np.float64)

    def _back(self, edited: Pixels, window: Window) -> Pixels:
        """Return the edit [S, S, 3] warped to the window's pixels; black outside the square."""
        size = edited.shape[0]
        if self.side < size:  # shrink first: samples one pixel apart would skip most of it
            size = max(1, round(self.side))
            edited = np.asarray(Pillow.fromarray(edited).resize((size, size), Pillow.Resampling.LANCZOS))
        rows, columns = window
        step = np.linalg.inv(self._edges) * size
        offset = step @ (np.array([columns.start, rows.start]) - 0.5 - self._origin)
        shape = (columns.stop - columns.start, rows.stop - rows.start)
        if 0 in shape:
            return np.zeros((shape[1], shape[0], 3), np.uint8)
        return np.asarray(_warped(edited, shape, (*step[0], offset[0], *step[1], offset[1])))


def _warped(pixels: Pixels, shape: tuple[int, int], coefficients: tuple[float, ...]) -> Pillow.Image:
    """Return an image of (width, height) ``shape`` whose (x, y) is ``pixels`` at (a x + b y + c, d x + e y + f).

    Coordinates are of pixel edges, as in Pillow: the centre of the first pixel is (0.5, 0.5).
    """
    image = Pillow.fromarray(pixels)
    return image.transform(shape, Pillow.Transform.AFFINE, coefficients, Pillow.Resampling.BICUBIC)


def _mirrored(cells: Pixels, before: npt.NDArray[np.int_], after: npt.NDArray[np.int_], reach: float) -> Pixels:
    """Return [h, w, 3] padded by (x, y) cells: mirrored, fading to the median colour at distance ``reach``."""
    if not before.any() and not after.any():
        return cells
    height, width = cells.shape[:2]
    padded = np.pad(cells, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="symmetric")
    across = _beyond(int(before[0]), width, padded.shape[1])
    down = _beyond(int(before[1]), height, padded.shape[0])
    weight = np.clip(np.maximum(down[:, None], across) / reach, 0, 1)[..., None]
    faded = padded + weight * (np.median(cells, axis=(0, 1)) - padded.astype(np.float64))
    shown: Pixels = np.rint(faded).astype(np.uint8)
    return shown


def _beyond(before: int, length: int, total: int) -> Array:
    """Return how many cells each of ``total`` is away from the ``length`` cells that start at ``before``."""
    places = np.arange(total)
    return np.maximum(0, np.maximum(before - places, places - (before + length - 1))).astype(np.float64)


def _square(size: tuple[int, int]) -> int:
    """Return the side of a square network size. Raises ValueError for another one."""
    height, width = size
    if height != width:
        raise ValueError(f"a quad is extracted at a square size, not {height}x{width}")
    return height
