"""Convert arrays, Pillow images and paths to a manifest's image and mask cells, for the Python API.

A cell is an address or a file's bytes. ``codec.decode_image`` returns the given pixels bit for bit, so that calls from
Python take the same path as manifest rows.
"""

from __future__ import annotations

import io
import os
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from retouch.errors import LoadError

# Array: [H, W] or [H, W, 3 or 4] uint8, or for masks [H, W] bool. Text: an address. Bytes: an image file.
ImageLike = npt.NDArray[Any] | Pillow.Image | str | os.PathLike[str] | bytes
_NOT_IN_PNG: Final = frozenset({"CMYK", "YCbCr", "LAB", "F", "I", "La", "RGBa", "RGBX"})  # stored as TIFF


def image_cell(image: ImageLike, what: str = "image") -> str | bytes:
    """Return an image as a manifest cell.

    Args:
        image: see ``ImageLike``; a Pillow image keeps its EXIF orientation, which decoding applies.
        what: its column, for error messages.

    Raises:
        LoadError: an array of another type or shape, or not an image at all.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, Pillow.Image):
        return _file(image, what)
    if not isinstance(image, np.ndarray):
        raise LoadError(f"{what} is a {type(image).__name__}; give an array, a Pillow image, a path or a file's bytes")
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
        raise LoadError(f"{what} is {image.dtype} {list(image.shape)}; give uint8 [H, W, 3] (or [H, W], [H, W, 4])")
    return _file(Pillow.fromarray(np.ascontiguousarray(image)), what)


def mask_cell(mask: ImageLike) -> str | bytes:
    """Return a mask as a manifest cell: True, or white, is edited.

    Raises:
        LoadError: as ``image_cell``; or uint8 and 1 everywhere, which could mean black or True.
    """
    if not isinstance(mask, np.ndarray):
        return image_cell(mask, "mask")
    if mask.ndim != 2:
        raise LoadError(f"mask is {mask.dtype} {list(mask.shape)}; give bool or uint8 [H, W]")
    if mask.dtype == np.uint8 and mask.size and mask.max() == mask.min() == 1:
        raise LoadError("mask is uint8 and 1 everywhere, which is black; give mask.astype(bool)")
    return image_cell(mask.astype(np.uint8) * 255 if mask.dtype == np.bool_ else mask, "mask")


def _file(image: Pillow.Image, what: str) -> bytes:
    out = io.BytesIO()
    try:
        if image.mode in _NOT_IN_PNG:
            image.save(out, "TIFF", exif=image.getexif())
        else:
            image.save(out, "PNG", compress_level=0, exif=image.getexif())  # decoded again right away
    except (OSError, ValueError, SystemError) as error:
        raise LoadError(f"{what} of mode {image.mode} cannot be encoded: {error}; convert it to RGB first") from None
    return out.getvalue()
