from __future__ import annotations

import io

import numpy as np
from PIL import Image
from retouch.training.plots import GAP, MIN_SIDE, contact_sheet, loss_curves

from tests.helpers.datasets import picture


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image


def test_every_image_stands_in_the_sheet_at_its_row_and_column() -> None:
    rows = [np.stack([picture(10 * r + c, 32, 32) for c in range(4)]) for r in range(3)]
    sheet = np.asarray(opened(contact_sheet(rows)))
    cell = MIN_SIDE + GAP
    assert sheet.shape == (3 * cell + GAP, 4 * cell + GAP, 3)
    for r in range(3):
        for c in range(4):
            top, left = GAP + r * cell, GAP + c * cell
            seen = sheet[top : top + MIN_SIDE : 3, left : left + MIN_SIDE : 3]
            np.testing.assert_array_equal(seen, rows[r][c])
    assert (sheet[:GAP] == 255).all()


def test_large_images_are_shown_as_they_are() -> None:
    sheet = np.asarray(opened(contact_sheet([picture(1, 128, 128)[None]])))
    np.testing.assert_array_equal(sheet[GAP:-GAP, GAP:-GAP], picture(1, 128, 128))


def test_the_curves_show_each_term_on_an_axis_of_its_own() -> None:
    curves = [{"batch": i, "direction": 1 / (i + 1), "total": 2.0, "learning_rate": 1e-5} for i in range(3)]
    three, one = (opened(loss_curves([{k: c[k] for k in names} for c in curves], "blue")) for names in (
        ("batch", "direction", "total", "learning_rate"), ("batch", "total"),
    ))  # fmt: skip
    assert three.width == one.width
    assert three.height == 3 * one.height
    assert len(three.getcolors(1 << 16) or []) > 2
