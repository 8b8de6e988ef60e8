"""Arrays to the small pictures of a page: thumbnails, mask overlays, differences. Knows neither storage nor HTML.

Arrays are ``[H, W, 3]`` uint8 RGB in 0..255; a mask is ``[H, W]`` bool, True = edit.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from retouch.schema import Mask, Pixels

Plane = npt.NDArray[np.uint8]  # [H, W]
LARGEST: Final = 320  # longer side of a thumbnail in pixels: three fit beside each other on a laptop
ENLARGED: Final = 192  # images of up to half of this are shown enlarged by a whole number, up to about this
WEBP_QUALITY: Final = 82  # a photograph of 320 pixels in about 15 KB
TINT: Final = (255, 0, 128)  # of the mask; a colour that photographs seldom have


@dataclass(frozen=True)
class Picture:
    """A picture to be shown at ``width`` x ``height`` CSS pixels, by its ``data:`` URI."""

    uri: str
    width: int
    height: int
    pixelated: bool  # enlarged: its pixels are meant to be seen


def thumbnail(pixels: Pixels, alpha: Plane | None = None, largest: int = LARGEST) -> Picture:
    """An image scaled down to ``largest``, or a small one as it is, to be shown enlarged. Transparency is kept."""
    return _picture(_shrunk(pixels, alpha, largest))


def small_png(pixels: Pixels, alpha: Plane | None = None) -> bytes:
    """A PNG file of an image scaled down to ``LARGEST``, or of a small one as it is."""
    out = io.BytesIO()
    _shrunk(pixels, alpha, LARGEST).save(out, "PNG")
    return out.getvalue()


def overlay(pixels: Pixels, mask: Mask, largest: int = LARGEST) -> Picture:
    """An image in pale gray with what is edited in tinted colour; a mask of one pixel can still be seen."""
    image = _shrunk(pixels, None, largest)
    part = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BOX)
    inside = part.point([0] + [max(share, 128) for share in range(1, 256)])
    if image.size != (mask.shape[1], mask.shape[0]):
        inside = inside.filter(ImageFilter.MaxFilter(3))  # one pixel alone would be lost to WebP's halved colour planes
    pale = image.convert("L").point([80 + value // 2 for value in range(256)]).convert("RGB")
    tinted = Image.blend(image, Image.new("RGB", image.size, TINT), 0.45)
    return _picture(Image.composite(tinted, pale, inside))


def difference(source: Pixels, output: Pixels, mask: Mask, side: int = LARGEST) -> tuple[Picture, int]:
    """Where the output differs from the source outside the mask, white on black, and by how many levels at most.

    Every pixel of the picture is the largest difference among the pixels that it stands for, so that a single one is
    seen; the largest of all is white.
    """
    # Not abs(a - b): uint8 wraps around.
    levels = np.where(mask, 0, (np.maximum(source, output) - np.minimum(source, output)).max(axis=2))
    width, height = _fitted(levels.shape[1], levels.shape[0], side)
    for axis, size in enumerate((height, width)):
        starts = np.arange(size) * levels.shape[axis] // size
        levels = np.maximum.reduceat(levels, starts, axis=axis)
    largest = int(levels.max())
    shown = (levels.astype(np.uint16) * 255 // max(largest, 1)).astype(np.uint8)
    return _picture(Image.fromarray(shown)), largest


def _shrunk(pixels: Pixels, alpha: Plane | None, largest: int) -> Image.Image:
    image = Image.fromarray(pixels)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    size = _fitted(image.width, image.height, largest)
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _fitted(width: int, height: int, largest: int) -> tuple[int, int]:
    """Width and height brought under ``largest``, the aspect ratio kept."""
    scale = min(1.0, largest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _picture(image: Image.Image) -> Picture:
    times = max(1, ENLARGED // max(image.size))
    out = io.BytesIO()
    if times > 1:  # few pixels, each of which shall be seen: exact
        image.save(out, "PNG")
        kind = "png"
    else:
        image.save(out, "WEBP", quality=WEBP_QUALITY, method=2)
        kind = "webp"
    uri = f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
    return Picture(uri, image.width * times, image.height * times, times > 1)


def histogram(values: npt.NDArray[np.float64], bins: int = 24) -> list[float]:
    """Heights in 0..1 of the bars of a small histogram; the square root is shown, so that a single value is seen."""
    counts, _ = np.histogram(values, bins)
    return [math.sqrt(count / max(counts.max(), 1)) for count in counts.tolist()]
