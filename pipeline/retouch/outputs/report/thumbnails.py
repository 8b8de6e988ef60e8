"""Small pictures in sRGB for a page, made from arrays: thumbnails, mask overlays, differences.

Arrays are ``[H, W, 3]`` uint8 RGB in 0..255; a mask is ``[H, W]`` bool, True = edit. ``profile`` is the ICC profile of
the pixels; None is sRGB.
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

from retouch.imaging import colour
from retouch.schema import Mask, Pixels

Plane = npt.NDArray[np.uint8]  # [H, W]
LARGEST: Final = 320  # longer side of a thumbnail in pixels: three fit next to each other on a laptop
ENLARGED: Final = 192  # images of up to half this size are enlarged by an integer factor to about this size
WEBP_QUALITY: Final = 82  # about 15 KB for a photograph of 320 pixels
TINT: Final = (255, 0, 128)  # of the mask; a colour that is rare in photographs


@dataclass(frozen=True)
class Picture:
    """A picture as a ``data:`` URI, shown at ``width`` x ``height`` CSS pixels."""

    uri: str
    width: int
    height: int
    pixelated: bool  # enlarged without interpolation


def thumbnail(
    pixels: Pixels, alpha: Plane | None = None, largest: int = LARGEST, *, profile: bytes | None = None
) -> Picture:
    """Return an image scaled down to ``largest``, or a small one enlarged. Transparency is kept."""
    return _picture(_shrunk(pixels, alpha, largest, profile))


def small_png(pixels: Pixels, alpha: Plane | None = None, *, profile: bytes | None = None) -> bytes:
    """Return a PNG file of an image, scaled down to ``LARGEST`` if it is larger."""
    out = io.BytesIO()
    _shrunk(pixels, alpha, LARGEST, profile).save(out, "PNG")
    return out.getvalue()


def overlay(pixels: Pixels, mask: Mask, largest: int = LARGEST, *, profile: bytes | None = None) -> Picture:
    """Return an image in pale gray, tinted where the mask is True; a mask of one pixel stays visible."""
    image = _shrunk(pixels, None, largest, profile)
    part = Image.fromarray(mask.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BOX)
    inside = part.point([0] + [max(share, 128) for share in range(1, 256)])
    if image.size != (mask.shape[1], mask.shape[0]):
        # WebP halves the colour planes, which would hide a single pixel.
        inside = inside.filter(ImageFilter.MaxFilter(3))
    pale = image.convert("L").point([80 + value // 2 for value in range(256)]).convert("RGB")
    tinted = Image.blend(image, Image.new("RGB", image.size, TINT), 0.45)
    return _picture(Image.composite(tinted, pale, inside))


def difference(source: Pixels, output: Pixels, mask: Mask, side: int = LARGEST) -> tuple[Picture, int]:
    """Return where the output differs from the source outside the mask, white on black, and the largest difference.

    Each pixel of the picture is the maximum over the pixels that it covers, so that a single one stays visible. The
    picture is scaled to make the largest difference white.
    """
    # Not abs(a - b), because uint8 wraps around.
    levels = np.where(mask, 0, (np.maximum(source, output) - np.minimum(source, output)).max(axis=2))
    width, height = _fitted(levels.shape[1], levels.shape[0], side)
    for axis, size in enumerate((height, width)):
        starts = np.arange(size) * levels.shape[axis] // size
        levels = np.maximum.reduceat(levels, starts, axis=axis)
    largest = int(levels.max())
    shown = (levels.astype(np.uint16) * 255 // max(largest, 1)).astype(np.uint8)
    return _picture(Image.fromarray(shown)), largest


def _shrunk(pixels: Pixels, alpha: Plane | None, largest: int, profile: bytes | None) -> Image.Image:
    image = Image.fromarray(colour.to_srgb(pixels, profile))
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    size = _fitted(image.width, image.height, largest)
    if size == image.size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _fitted(width: int, height: int, largest: int) -> tuple[int, int]:
    """Return width and height scaled down to ``largest``, keeping the aspect ratio."""
    scale = min(1.0, largest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _picture(image: Image.Image) -> Picture:
    times = max(1, ENLARGED // max(image.size))
    out = io.BytesIO()
    if times > 1:  # an enlarged picture is stored losslessly
        image.save(out, "PNG")
        kind = "png"
    else:
        image.save(out, "WEBP", quality=WEBP_QUALITY, method=2)
        kind = "webp"
    uri = f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
    return Picture(uri, image.width * times, image.height * times, times > 1)


def histogram(values: npt.NDArray[np.float64], bins: int = 24) -> list[float]:
    """Return the bars' heights in 0..1 of a histogram; square roots, so that a single value stays visible."""
    counts, _ = np.histogram(values, bins)
    return [math.sqrt(count / max(counts.max(), 1)) for count in counts.tolist()]
