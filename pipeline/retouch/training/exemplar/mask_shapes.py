"""Holes of free shape: a box whose sides are bent to curves and roughened (Yang et al. 2022).

A hole is [H, W] bool, True inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw

from retouch.schema import Mask
from retouch.training.exemplar.boxes import Box, Draws

F64 = npt.NDArray[np.float64]
Point = tuple[float, float]

PUBLISHED_POINTS: Final = 18  # at t = 0.05 to 0.90: the published code stops short of a side's end
PAPER_POINTS: Final = 20


def box_hole(box: Box, width: int, height: int) -> Mask:
    """Return a hole that is the box itself."""
    hole = np.zeros((height, width), np.bool_)
    hole[box[1] : box[3], box[0] : box[2]] = True
    return hole


def free_hole(
    draws: Draws, box: Box, extended: Box, width: int, height: int, how: Literal["published", "paper"], jitter: int
) -> Mask:
    """Return a hole whose rough outline bulges from the box half-way to the extended box."""
    return filled(outline(draws, box, extended, how, jitter), width, height)


def outline(draws: Draws, box: Box, extended: Box, how: Literal["published", "paper"], jitter: int) -> list[Point]:
    """Return the outline's points x, y: top, right, bottom and left side, each moved by a draw for x and one for y."""
    sides = curves(box, extended, PUBLISHED_POINTS if how == "published" else PAPER_POINTS)
    if how == "published":
        kept = [point for side in sides for point in without_repeats(side)]
        return [(x + draws.integer(-jitter, jitter), y + draws.integer(-jitter, jitter)) for x, y in kept]
    return [(x + _offset(draws, jitter), y + _offset(draws, jitter)) for side in sides for x, y in side.tolist()]


def _offset(draws: Draws, jitter: int) -> int:
    """Return 1 to ``jitter`` pixels with a random sign."""
    return draws.integer(1, jitter) * (2 * draws.integer(0, 1) - 1)


def curves(box: Box, extended: Box, points: int) -> list[F64]:
    """Return top, right, bottom and left as quadratic Bezier curves, [points, 2] each, at t = 0.05, 0.10, ...

    A side runs from corner to corner of the box; its control point is its middle, moved onto the extended box.
    """
    x0, y0, x1, y1 = box
    left, top, right, bottom = extended
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    ends = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    controls = [(x, top), (right, y), (x, bottom), (left, y)]
    t = np.arange(1, points + 1, dtype=np.float64) * np.float64(0.05)
    return [bezier(np.array([a, control, b], float), t) for a, control, b in _around(ends, controls)]


def _around(ends: list[Point] | list[tuple[int, int]], controls: Sequence[Point]) -> list[tuple[Point, Point, Point]]:
    return [(ends[i], controls[i], ends[(i + 1) % 4]) for i in range(4)]


def bezier(nodes: F64, t: F64) -> F64:
    """Return points [T, 2] of the quadratic curve with these nodes [3, 2].

    It must be Horner's form of the Bernstein basis: which points repeat a coordinate (``without_repeats``) depends on
    the last bit, and the published code's library rounds in this order.
    """
    s, t = (1 - t)[:, None], t[:, None]
    points: F64 = (s * nodes[0] + 2 * t * nodes[1]) * s + t * t * nodes[2]
    return points


def without_repeats(side: F64) -> list[Point]:
    """Return a side's points whose x and y are both new: about a dozen on a bulging side, two to five on a flat one."""
    xs: set[float] = set()
    ys: set[float] = set()
    kept = []
    for x, y in side.tolist():
        if x not in xs and y not in ys:
            kept.append((x, y))
            xs.add(x)
            ys.add(y)
    return kept


def filled(points: Sequence[Point], width: int, height: int) -> Mask:
    """Return the polygon's inside, clipped to the image."""
    canvas = Pillow.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(list(points), fill=1)
    return np.asarray(canvas, np.bool_)
