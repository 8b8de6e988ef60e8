"""Canvases: where an image lies on a larger one, and the strips in which the rest is painted, pass by pass.

As in text-guided extrapolation (Avrahami et al. 2022, section 5): each pass adds a strip on one side, fills it by
reflection and masks it. All rectangles are in pixels of the finished canvas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from retouch.imaging.regions import Region, Size
from retouch.jobs.canvas import SIDES, Side
from retouch.schema import Mask

Plane = npt.NDArray[np.uint8]  # [H, W] or [H, W, 3]
# Largest part of what the network sees that a pass adds with ``steps: auto``: at least as much context as is painted.
MAX_SHARE: Final = 0.5


@dataclass(frozen=True)
class Strip:
    """One pass: the canvas as painted so far, and with a strip more on one side."""

    side: Side
    number: int  # among the strips of its side, from 0
    before: Region
    after: Region

    @property
    def mask(self) -> Mask:
        """The new strip, [H, W] of ``after``."""
        return ~_inner(self.before, self.after).footprint(self.after.shape)

    def extend(self, pixels: Plane) -> Plane:
        """Return pixels of ``before`` with the strip added, filled by reflection: of ``after``."""
        return extend(pixels, _inner(self.before, self.after), self.after.shape)


def place(size: Size, margins: Mapping[Side, int | float]) -> tuple[Region, Size]:
    """Return an image's rectangle on its canvas, and the canvas's size (H, W).

    Args:
        size: the image's (H, W).
        margins: pixels added per side where it is an integer, else a share of the image's width or height, rounded.
    """
    height, width = size
    lengths: Mapping[Side, int] = {"left": width, "right": width, "top": height, "bottom": height}
    added = {side: value if isinstance(value, int) else round(value * lengths[side]) for side, value in margins.items()}
    left, top = added.get("left", 0), added.get("top", 0)
    frame = Region(left, top, left + width, top + height)
    return frame, (frame.y1 + added.get("bottom", 0), frame.x1 + added.get("right", 0))


def extend(pixels: Plane, frame: Region, size: Size) -> Plane:
    """Return an array of ``size`` (H, W) that equals ``pixels`` inside ``frame``, and reflects them outside."""
    around: list[Any] = [(frame.y0, size[0] - frame.y1), (frame.x0, size[1] - frame.x1)]
    return np.pad(pixels, [*around, (0, 0)][: pixels.ndim], mode="reflect")


def new_area(frame: Region, size: Size) -> Mask:
    """Return the mask (H, W) of what lies outside the frame."""
    return ~frame.footprint(size)


def strips(frame: Region, size: Size, network_size: int, steps: int | Literal["auto"]) -> tuple[Strip, ...]:
    """Return the passes that paint a canvas: all of the left side, then of the right, the top, and the bottom.

    Left and right are as high as the image; top and bottom as wide as the canvas, so they paint the corners.

    Args:
        frame: the image's rectangle.
        size: the canvas's (H, W).
        network_size: S, the network's height and width.
        steps: passes per side, at most one per pixel; auto: as few as let a pass add at most ``MAX_SHARE`` of what the
            network sees, which is a square as long as the side, or S x S where that is larger.
    """
    added: Mapping[Side, int] = {
        "left": frame.x0,
        "right": size[1] - frame.x1,
        "top": frame.y0,
        "bottom": size[0] - frame.y1,
    }
    found: list[Strip] = []
    done = frame
    for side in SIDES:
        seen = max(network_size, done.height if side in ("left", "right") else done.width)
        count = -(-added[side] // max(1, int(seen * MAX_SHARE))) if steps == "auto" else min(steps, added[side])
        for number in range(count):
            pixels = added[side] * (number + 1) // count - added[side] * number // count
            after = _grown(done, side, pixels)
            found.append(Strip(side, number, done, after))
            done = after
    return tuple(found)


def _grown(region: Region, side: Side, pixels: int) -> Region:
    match side:
        case "left":
            return replace(region, x0=region.x0 - pixels)
        case "right":
            return replace(region, x1=region.x1 + pixels)
        case "top":
            return replace(region, y0=region.y0 - pixels)
        case "bottom":
            return replace(region, y1=region.y1 + pixels)


def _inner(region: Region, around: Region) -> Region:
    """Return a rectangle in coordinates of one around it."""
    return Region(region.x0 - around.x0, region.y0 - around.y0, region.x1 - around.x0, region.y1 - around.y0)
