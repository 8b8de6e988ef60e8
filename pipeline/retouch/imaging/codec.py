"""Decode image and mask files to uint8 arrays, and encode them: EXIF orientation, colour modes and profiles, formats.

Arrays are ``[H, W, 3]`` uint8 RGB in 0..255; a mask is ``[H, W]`` bool, True = edit.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import PngImagePlugin, UnidentifiedImageError

from retouch.errors import EditError, LoadError
from retouch.imaging import colour
from retouch.schema import Mask, Pixels

T = TypeVar("T")
Plane = npt.NDArray[np.uint8]  # [H, W]
Format = Literal["png", "webp-lossless", "jpeg"]
EXTENSIONS: Final = {"png": "png", "webp-lossless": "webp", "jpeg": "jpg"}
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # of the image files in a folder
MAX_PIXELS: Final = 89_478_485  # default limit against decompression bombs, Pillow's (a quarter GiB of RGB)
MAX_TEXT: Final = 16 << 20  # bytes of a PNG's text, XMP or profile, decompressed; Pillow's limit is 1 MiB
JPEG_QUALITY: Final = 95  # without chroma subsampling

PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT  # workflows, printers' profiles and XMP exceed Pillow's; 64 MiB in all stay
# Pillow warns from its limit on, in the middle of a progress bar. ``_open`` compares sizes itself.
warnings.filterwarnings("ignore", category=Pillow.DecompressionBombWarning)

_REFUSED: Final = frozenset({"EPS", "WMF"})  # Pillow hands them to Ghostscript and to Windows
_LOSSY: Final = frozenset({"JPEG", "MPO", "JPEG2000", "WEBP", "AVIF"})  # where a 1 may be noise
_WHITE: Final = 128  # the default threshold of masks
_SRGB_GAMMA: Final = 1 / 2.2  # of a PNG's gAMA chunk
_GAMMA_TOLERANCE: Final = 0.01
_TURNS: Final = {  # EXIF orientation to the transposition that makes the image upright
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Image:
    """A decoded image file, upright."""

    pixels: Pixels  # [H, W, 3] as stored: values of ``profile``, not blended with alpha
    alpha: Plane | None  # [H, W] 0..255, None if the file has no transparency
    mode: str  # Pillow's name of the file's colour mode
    format: str  # PNG, JPEG, WEBP, ...
    orientation: int  # EXIF orientation 1..8 of the file, already applied to the arrays
    profile: bytes | None = None  # ICC profile of an RGB device, to be written with ``pixels``; None: they are sRGB
    converted_from: str | None = None  # colour space or profile of the file where ``pixels`` are not its values

    def as_seen(self, background: colour.Colour = colour.WHITE) -> Pixels:
        """Return what a viewer shows, [H, W, 3] in sRGB, over a background of that colour where it is transparent."""
        return colour.over(colour.to_srgb(self.pixels, self.profile), self.alpha, background)


def decode_image(data: bytes, what: str = "image", *, max_pixels: int = MAX_PIXELS) -> Image:
    """Return the image in a file; of an animation, its first frame.

    16-bit grey is divided by 257. Integer and float grey without a fixed range (TIFF) is taken as 0..1 (floats only),
    0..255 or 0..65535: the narrowest range that holds its values.

    Values of an RGB profile stay, and the profile is in the result. CMYK, LAB and values of a grey profile become sRGB,
    as do those of an RGB profile that has no way back. A profile that cannot be read, or is of another kind of device
    than the image, is ignored, and so is a PNG's gamma.

    Args:
        data: the file's bytes.
        what: the column it comes from, for error messages.
        max_pixels: width x height of the largest file that is decoded.

    Raises:
        LoadError: empty, truncated, not an image, too large, or of an unsupported colour mode.
    """
    opened = _open(data, what, max_pixels=max_pixels)
    values, alpha = _planes(opened.image, what)
    values, profile, source = _in_rgb(opened, values)
    return Image(values, alpha, opened.mode, opened.format, opened.orientation, profile, source)


def decode_output(data: bytes, width: int | None, height: int | None) -> Image:
    """Return an image that a run wrote, which has the size in its result row; other sizes have the default limit."""
    return decode_image(data, "output", max_pixels=max(MAX_PIXELS, (width or 0) * (height or 0)))


def decode_mask(
    data: bytes,
    size: tuple[int, int] | None = None,
    *,
    source: Literal["auto", "luma", "alpha"] = "auto",
    invert: bool = False,
    threshold: int = 128,
    orient: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Mask:
    """Return the mask in a file: True where it is white (or opaque).

    Args:
        data: the file's bytes.
        size: (H, W) to scale it to with NEAREST; its own size if None.
        source: the plane to threshold; auto is alpha if the file has one that varies, else luma.
        invert: edit where it is black instead.
        threshold: 1..255, smallest value that is edited; 1 includes every non-zero pixel.
        orient: apply its EXIF orientation.
        max_pixels: width x height of the largest file that is decoded.

    Returns:
        [H, W] bool; it may be all False.

    Raises:
        LoadError: not readable, or ``source`` is alpha and the file has none.
    """
    plane = mask_plane(data, source=source, orient=orient, max_pixels=max_pixels)
    if size is not None and plane.shape != size:
        plane = np.asarray(Pillow.fromarray(plane).resize((size[1], size[0]), Pillow.Resampling.NEAREST))
    edited: Mask = (plane >= threshold) != invert
    return edited


def mask_plane(
    data: bytes,
    *,
    source: Literal["auto", "luma", "alpha"] = "auto",
    orient: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Plane:
    """Return the plane of a mask file that is thresholded, [H, W] at its own size; arguments as in ``decode_mask``.

    In a lossless file without transparency that holds the values 0 and 1 alone, as segmentation tools write them, 1 is
    white. The values of a palette are its numbers, unless its colours make a mask: 0 is another colour than black, or
    1 is bright.
    """
    opened = _open(data, "mask", orient=orient, max_pixels=max_pixels)
    values, alpha = _planes(opened.image, "mask")
    if source == "alpha" and alpha is None:
        raise LoadError(
            f"mask has no alpha channel (mode {opened.mode}); use mask source luma, or a file with transparency"
        )
    if alpha is not None and (source == "alpha" or (source == "auto" and alpha.min() != alpha.max())):
        return alpha
    luma = np.asarray(Pillow.fromarray(values).convert("L"))
    labels = _labels(opened, luma)
    return luma if labels is None else labels * np.uint8(255)


@dataclass(frozen=True)
class Glance:
    """Properties in an image file's header."""

    orientation: int  # EXIF, 1..8
    animated: bool  # more than one frame, of which only the first is used
    profile: bool  # it embeds an ICC profile
    profile_ignored: bool  # which cannot be read, or is of another kind of device
    gamma_ignored: bool  # a PNG with a gamma other than sRGB's, and no profile


def glance(data: bytes) -> Glance:
    """Return properties from the header of a decodable image file."""
    image = Pillow.open(io.BytesIO(data))
    embedded: bytes = image.info.get("icc_profile") or b""
    gamma = image.info.get("gamma")
    return Glance(
        _orientation(image),
        # A JPEG with a preview behind it (MPO), as phones write it, is no animation.
        image.format != "MPO" and getattr(image, "is_animated", False),
        bool(embedded),
        bool(embedded) and image.mode != "LAB" and _profile_for(embedded, image.mode) is None,
        not embedded and "srgb" not in image.info and gamma is not None and abs(gamma - _SRGB_GAMMA) > _GAMMA_TOLERANCE,
    )


def _labels(opened: _Opened, luma: Plane) -> Plane | None:
    """Return the values of a mask that holds 0 and 1 alone; None for any other mask."""
    if opened.format in _LOSSY:
        return None
    mode = opened.image.mode
    stored = np.asarray(opened.image) if mode in ("P", "I") or mode.startswith("I;16") else luma
    if not stored.size or stored.min() != 0 or stored.max() != 1:
        return None
    if mode == "P" and (luma[stored == 0].max() > 0 or luma.max() >= _WHITE):
        return None
    return stored.astype(np.uint8)


def size_of(file: BinaryIO) -> tuple[int, int]:
    """Return (H, W) of an image file before EXIF rotation, from its header. Raise LoadError if it has none."""
    image: Pillow.Image = _guarded("image", lambda: Pillow.open(file))
    return image.height, image.width


def mask_from_bbox(bbox: Sequence[float], size: tuple[int, int]) -> Mask:
    """Return the mask of a box ``x0, y0, x1, y1`` in pixels, x1 and y1 exclusive, clipped to the image.

    A fractional box includes every pixel that it touches.

    Args:
        bbox: left, top, right, bottom.
        size: (H, W) of the image.

    Raises:
        LoadError: not four finite numbers, empty, or entirely outside the image.
    """
    values = [float("nan") if value is None else float(value) for value in bbox]
    if len(values) != 4 or not all(map(math.isfinite, values)):
        raise LoadError(f"bbox {list(bbox)} is not four numbers x0, y0, x1, y1")
    x0, y0, x1, y1 = values
    if x1 <= x0 or y1 <= y0:
        raise LoadError(f"bbox {list(bbox)} is empty; give x0, y0, x1, y1, not x, y, width, height")
    height, width = size
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        raise LoadError(f"bbox {list(bbox)} lies outside the image of {width}x{height} pixels")
    mask = np.zeros(size, dtype=bool)
    mask[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)] = True
    return mask


def encode(
    pixels: Pixels, image_format: str = "png", alpha: Plane | None = None, profile: bytes | None = None
) -> bytes:
    """Return an image file's bytes; the same arguments give the same bytes.

    Args:
        pixels: [H, W, 3] uint8.
        image_format: png, webp-lossless, or jpeg (lossy, without ``alpha``).
        alpha: [H, W] uint8.
        profile: ICC profile of the pixels, which is embedded.

    Raises:
        EditError: the format cannot hold an image of this size.
    """
    image = Pillow.fromarray(pixels)
    if alpha is not None and image_format != "jpeg":
        image.putalpha(Pillow.fromarray(alpha))
    # Speed over size. 512x512 on one core: png 36 ms and 544 kB (level 6: 41 ms, 494 kB), webp 29 ms and 550 kB.
    how: dict[str, dict[str, Any]] = {
        "png": {"format": "PNG", "compress_level": 1},
        "webp-lossless": {"format": "WEBP", "lossless": True, "method": 0, "quality": 50, "exact": True},
        "jpeg": {"format": "JPEG", "quality": JPEG_QUALITY, "subsampling": 0},
    }
    embedded: dict[str, Any] = {} if profile is None else {"icc_profile": profile}
    out = io.BytesIO()
    try:
        image.save(out, **how[image_format], **embedded)
    except (ValueError, OSError) as error:
        height, width = pixels.shape[:2]
        raise EditError(f"{image_format} cannot hold {width}x{height} pixels ({error}); png can") from None
    return out.getvalue()


def encode_mask(mask: Mask) -> bytes:
    """Return a mask [H, W] as the bytes of a grey PNG, white where it is edited."""
    out = io.BytesIO()
    Pillow.fromarray(mask.astype(np.uint8) * 255).save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class _Opened:
    """A file's first frame, upright."""

    image: Pillow.Image
    mode: str
    format: str
    orientation: int  # EXIF
    profile: bytes | None  # ICC


def _open(data: bytes, what: str, *, orient: bool = True, max_pixels: int = MAX_PIXELS) -> _Opened:
    if max_pixels > (Pillow.MAX_IMAGE_PIXELS or math.inf):  # which also bounds images inside of files, such as icons
        Pillow.MAX_IMAGE_PIXELS = max_pixels
    if not data:
        raise LoadError(f"{what} file is empty")
    image: Pillow.Image = _guarded(what, lambda: Pillow.open(io.BytesIO(data)))
    width, height = image.size
    if width * height > max_pixels:
        raise LoadError(
            f"{what} has {width}x{height} pixels, over the limit of {max_pixels}; set images: {{max_pixels: "
            f"{width * height}}} in the job, or scale it down"
        )
    if width == 0 or height == 0:
        raise LoadError(f"{what} has {width}x{height} pixels")
    mode, kind, profile = image.mode, image.format or "?", image.info.get("icc_profile")
    if kind in _REFUSED:
        raise LoadError(f"{what} is {kind}, which is a program, not an image; convert it to PNG first")
    _guarded(what, image.load)
    orientation = _orientation(image) if orient else 1
    if orientation != 1:
        image = image.transpose(_TURNS[orientation])
    return _Opened(image, mode, kind, orientation, profile or None)


def _in_rgb(opened: _Opened, values: Pixels) -> tuple[Pixels, bytes | None, str | None]:
    """Return RGB values [H, W, 3], their profile if it is not plain sRGB, and what they were converted from.

    Args:
        opened: the file.
        values: its values as RGB, by Pillow, which knows no profiles.
    """
    found = None if opened.profile is None else _profile_for(opened.profile, opened.image.mode)
    if opened.profile is None or found is None:
        return values, None, opened.image.mode if opened.image.mode in ("CMYK", "LAB") else None
    if found.mode == "RGB":
        if found.from_srgb is not None and len(opened.profile) <= colour.MAX_CARRIED:
            return values, opened.profile, None
        return colour.converted(Pillow.fromarray(values), found), None, f"RGB: {found.name}"
    if found.mode == "CMYK":
        return colour.converted(opened.image, found), None, f"CMYK: {found.name}"
    if found.is_srgb:
        return values, None, None
    return colour.converted(Pillow.fromarray(values[:, :, 0]), found), None, f"grey: {found.name}"


def _profile_for(data: bytes, mode: str) -> colour.Profile | None:
    """Return an embedded profile if it fits an image of this mode; an RGB profile also fits grey values."""
    found = colour.read(data)
    if found is None or mode == "LAB":  # LAB needs no profile
        return None
    is_grey = mode in ("1", "L", "LA", "La", "F") or mode.startswith("I")
    if found.mode == "CMYK" or mode == "CMYK":
        return found if found.mode == mode else None
    return found if found.mode == "RGB" or is_grey else None


def _guarded(what: str, read: Callable[[], T]) -> T:
    """Run a Pillow decoder; damaged files make it raise exceptions of any kind."""
    try:
        return read()
    except UnidentifiedImageError:
        raise LoadError(f"{what} is not an image file that Pillow can read") from None
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise LoadError(f"{what} is too large: {error}; a job's images.max_pixels raises the limit") from None
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if "MAX_TEXT_CHUNK" in text or "MAX_TEXT_MEMORY" in text:
            raise LoadError(
                f"{what} holds more metadata than the limits of {MAX_TEXT >> 20} MiB per compressed PNG chunk and "
                "64 MiB of text in all; save it without"
            ) from None
        raise LoadError(f"{what} is damaged: {text}") from None


def _orientation(image: Pillow.Image) -> int:
    """Return the EXIF orientation; 1 if it is absent or unreadable."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # the pixels of a file with damaged EXIF are still good
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _planes(image: Pillow.Image, what: str) -> tuple[Pixels, Plane | None]:
    """Return values [H, W, 3] and alpha [H, W] or None of an image in any Pillow mode."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = _to_8_bits(np.asarray(image), fixed=image.mode.startswith("I;16"), what=what)
        return np.repeat(grey[:, :, None], 3, axis=2), None
    try:
        if image.has_transparency_data:
            both = np.asarray(image.convert("RGBA"))
            return np.ascontiguousarray(both[:, :, :3]), np.ascontiguousarray(both[:, :, 3])
        return np.array(image.convert("RGB")), None
    except ValueError:
        raise LoadError(f"{what} has colour mode {image.mode}; convert it to RGB first") from None


def _to_8_bits(values: npt.NDArray[Any], *, fixed: bool, what: str) -> Plane:
    if not np.isfinite(values).all():
        raise LoadError(f"{what} holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        raise LoadError(f"{what} holds values {low:g}..{high:g}; expected 0..65535 at most")
    if fixed or high > 255:
        values = values / 257.0
    elif values.dtype.kind == "f" and high <= 1:
        values = values * 255.0
    return np.floor(values + 0.5).astype(np.uint8)
