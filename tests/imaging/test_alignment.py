"""Shifts of an edit are measured outside the mask and undone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from retouch.imaging.alignment import compared, measure, moved_back
from retouch.schema import Mask, Pixels
from skimage import data

pytestmark = pytest.mark.slow  # skimage.registration takes seconds to import

SIZE = 128


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    picture: Pixels = data.astronaut()
    return np.asarray(cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA))


def masked() -> Mask:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[40:80, 30:70] = True
    return mask


def shifted(picture: Pixels, right: float, down: float) -> Pixels:
    """The picture moved, paler, with noise, and another picture in the mask: what an edit looks like."""
    warp = np.array([[1, 0, -right], [0, 1, -down]], np.float32)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, warp, (SIZE, SIZE), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    rng = np.random.default_rng(0)
    edited = np.clip(moved * 0.9 + 10 + rng.normal(0, 3, moved.shape), 0, 255).astype(np.uint8)
    edited[masked()] = rng.integers(0, 256, (int(masked().sum()), 3))
    return edited


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -2.0), (0.6, 0.3), (-4.4, 5.7), (10.0, 0.0)])
def test_a_known_shift_is_measured_to_a_fifth_of_a_pixel(shift: tuple[float, float], photograph: Pixels) -> None:
    found = measure(photograph, shifted(photograph, *shift), compared(masked()))
    assert found == pytest.approx(shift, abs=0.2)


def test_a_shifted_edit_is_moved_back_and_one_in_place_is_left_alone(photograph: Pixels) -> None:
    outside = compared(masked())
    edited = shifted(photograph, 3.0, -2.0)
    back = moved_back(edited, measure(photograph, edited, outside))
    inner = outside.copy()
    inner[:8], inner[-8:], inner[:, :8], inner[:, -8:] = False, False, False, False

    def error(picture: Pixels) -> float:
        return float(np.abs(picture[inner] * 1.0 - (photograph[inner] * 0.9 + 10)).mean())

    assert error(back) < error(edited) / 3
    still = shifted(photograph, 0.2, 0.1)
    assert moved_back(still, measure(photograph, still, outside)) is still


def test_what_cannot_be_compared_has_no_shift(photograph: Pixels) -> None:
    everything = np.ones((SIZE, SIZE), bool)
    flat = np.full_like(photograph, 90)
    other = np.asarray(cv2.resize(data.retina(), (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    assert measure(flat, photograph, everything) is None
    assert measure(photograph, flat, everything) is None
    assert measure(photograph, other, everything) is None
    assert measure(photograph, photograph, np.zeros((SIZE, SIZE), bool)) is None
    assert moved_back(photograph, None) is photograph


def test_an_edit_of_a_whole_image_is_compared_whole() -> None:
    assert compared(np.ones((2, 2), bool)).all()
    assert compared(np.eye(2, dtype=bool)).tolist() == [[False, True], [True, False]]
