"""What a viewer sees of stored values: colour profiles to sRGB and back, transparency over a background.

Networks and metrics see sRGB. A file keeps its own values and its RGB profile, so that what is not edited stays as it
is. Arrays are ``[H, W, 3]`` uint8 in 0..255.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageCms

from retouch.schema import Pixels

Plane = npt.NDArray[np.uint8]  # [H, W]
Colour = tuple[int, int, int]
WHITE: Final[Colour] = (255, 255, 255)
BLACK: Final[Colour] = (0, 0, 0)
MAX_CARRIED: Final = 16_000_000  # bytes of a profile that is written to outputs; a JPEG holds 255 segments of 64 KB
_MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of Pillow, by the colour space that a profile names
_CACHED: Final = 32  # profiles; a dataset has few
_PROBES: Final = 17  # values per channel with which a profile is compared with sRGB
_GREYS: Final = np.arange(256, dtype=np.uint8)[None]  # [1, 256]
_TOLERANCE: Final = 1  # levels; profiles of sRGB differ from each other by as much


@dataclass(frozen=True)
class Profile:
    """A readable ICC profile."""

    mode: str  # Pillow's mode of its values: RGB, L or CMYK
    name: str  # its description
    to_srgb: Any  # ImageCms transform from ``mode`` to RGB
    from_srgb: Any  # of RGB profiles: the transform back; None if the profile has none, as some of scanners
    is_srgb: bool  # no value differs from sRGB's by more than ``_TOLERANCE``


def read(data: bytes) -> Profile | None:
    """Return a profile; None if it is damaged or not of an RGB, grey or CMYK device.

    Args:
        data: content of an ICC profile.
    """
    return _read(data)


def converted(image: Pillow.Image, profile: Profile) -> Pixels:
    """Return an image of the profile's mode in sRGB."""
    if profile.mode == "L":  # value by value, since a transform without precalculation is slow
        found: Pixels = _applied(Pillow.fromarray(_GREYS), profile.to_srgb)[0, np.asarray(image)]
        return found
    return _applied(image, profile.to_srgb)


def to_srgb(pixels: Pixels, profile: bytes | None) -> Pixels:
    """Return values of an RGB profile in sRGB; None is sRGB. Colours outside sRGB become its nearest."""
    found = None if profile is None else read(profile)
    return pixels if found is None or found.is_srgb else _applied(Pillow.fromarray(pixels), found.to_srgb)


def from_srgb(pixels: Pixels, profile: bytes | None) -> Pixels:
    """Return sRGB values in those of an RGB profile; None is sRGB."""
    found = None if profile is None else read(profile)
    if found is None or found.is_srgb or found.from_srgb is None:
        return pixels
    return _applied(Pillow.fromarray(pixels), found.from_srgb)


def over(pixels: Pixels, alpha: Plane | None, background: Colour = WHITE) -> Pixels:
    """Return the image over a background; opaque pixels stay as they are, exactly.

    Args:
        pixels: [H, W, 3], not multiplied with alpha.
        alpha: [H, W], 255 is opaque; None: all of it.
        background: in the same colours as ``pixels``.
    """
    if alpha is None or (clear := alpha < 255).sum() == 0:
        return pixels
    shown = pixels.copy()
    part = alpha[clear].astype(np.uint32)[:, None]
    shown[clear] = (pixels[clear] * part + np.array(background, np.uint32) * (255 - part) + 127) // 255
    return shown


@lru_cache(_CACHED)
def _read(data: bytes) -> Profile | None:
    srgb = ImageCms.createProfile("sRGB")
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _MODES.get(opened.profile.xcolor_space.strip())
        if mode is None:
            return None
        forward = _transform(opened, srgb, mode, "RGB")
        name = " ".join(ImageCms.getProfileDescription(opened).split()) or "unnamed profile"
    except (OSError, ValueError, ImageCms.PyCMSError):
        return None
    try:
        back = _transform(srgb, opened, "RGB", "RGB") if mode == "RGB" else None
    except ImageCms.PyCMSError:
        back = None
    return Profile(mode, name, forward, back, mode != "CMYK" and _is_identity(forward, mode))


def _transform(source: Any, target: Any, source_mode: str, target_mode: str) -> Any:
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if source_mode == "L":  # the precalculated table of littleCMS 2.19 is wrong by up to 10 levels in dark linear grey
        flags |= ImageCms.Flags.NOOPTIMIZE
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(source, target, source_mode, target_mode, intent, flags)


def _is_identity(transform: Any, mode: str) -> bool:
    if mode == "L":
        values, before = _GREYS, np.repeat(_GREYS[..., None], 3, axis=2)
    else:
        steps = np.linspace(0, 255, _PROBES).astype(np.uint8)
        values = before = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    after = _applied(Pillow.fromarray(values), transform)
    return int(np.abs(after.astype(int) - before).max()) <= _TOLERANCE


def _applied(image: Pillow.Image, transform: Any) -> Pixels:
    return np.array(ImageCms.applyTransform(image, transform))
