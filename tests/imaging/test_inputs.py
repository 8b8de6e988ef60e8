"""Arrays and Pillow images reach an editor as a file of the same pixels does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from retouch.errors import LoadError
from retouch.imaging import codec
from retouch.imaging.inputs import image_cell, mask_cell

from tests.helpers.datasets import picture, png


def decoded(cell: str | bytes) -> codec.Image:
    assert isinstance(cell, bytes)
    return codec.decode_image(cell)


@pytest.mark.parametrize("shape", [(20, 24, 3), (20, 24, 4), (20, 24), (1, 1, 3)])
def test_an_array_comes_out_of_its_cell_bit_for_bit(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    image = decoded(image_cell(array))
    wanted = array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2)
    assert np.array_equal(image.pixels, wanted[:, :, :3])
    assert (image.alpha is None) == (shape[2:] != (4,))


def test_a_view_of_an_array_that_is_not_contiguous_is_taken_as_it_is_seen() -> None:
    array = picture(0)[::-1, ::2]
    assert np.array_equal(decoded(image_cell(array)).pixels, array)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"])
def test_a_pillow_image_of_any_mode_is_read_as_its_file_would_be(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(picture(3)).convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else None
    image = image or (grey if mode in {"I", "F"} else Image.fromarray(picture(3))).convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "file.tiff")
    file = codec.decode_image((tmp_path / "file.tiff").read_bytes())
    assert np.array_equal(decoded(image_cell(image)).pixels, file.pixels)


def test_a_pillow_image_is_turned_by_its_exif_as_its_file_is() -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(1)).save(out, "JPEG", exif=exif)
    opened = Image.open(out)
    assert np.array_equal(decoded(image_cell(opened)).pixels, codec.decode_image(out.getvalue()).pixels)


def test_addresses_paths_and_bytes_stay_what_they_are(tmp_path: Path) -> None:
    assert image_cell("s3://bucket/a.png") == "s3://bucket/a.png"
    assert image_cell(tmp_path / "a.png") == str(tmp_path / "a.png")
    assert image_cell(png(picture(0))) == png(picture(0))


def test_true_is_edited_and_so_is_white() -> None:
    mask = np.zeros((20, 24), bool)
    mask[3:5, 6:9] = True
    for given in (mask, mask.astype(np.uint8) * 255, Image.fromarray(mask)):
        cell = mask_cell(given)
        assert isinstance(cell, bytes)
        assert np.array_equal(codec.decode_mask(cell), mask)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"image is float32 \[4, 4, 3\]; give uint8"),
        (np.zeros((3, 4, 5), np.uint8), r"image is uint8 \[3, 4, 5\]; give uint8"),
        ([[1, 2]], "image is a list; give an array"),
        (None, "image is a NoneType"),
        (Image.new("HSV", (2, 2)), "image of mode HSV cannot be encoded"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(array: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        image_cell(array)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((4, 4), np.uint8), r"mask is uint8 and 1 everywhere.*astype\(bool\)"),
        (np.ones((4, 4, 1), bool), r"mask is bool \[4, 4, 1\]; give bool or uint8 \[H, W\]"),
        (np.ones((4, 4), np.float32), r"mask is float32"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_line(mask: Any, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        mask_cell(mask)
