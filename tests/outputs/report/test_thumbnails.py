import base64
import io

import numpy as np
import pytest
from PIL import Image
from retouch.outputs.report.thumbnails import LARGEST, Picture, difference, histogram, overlay, thumbnail


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def opened(picture: Picture) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture.uri.partition("base64,")[2])))


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (20, 64), (96, 7)])
def test_a_small_image_is_kept_exactly_and_enlarged_by_a_whole_number(size):
    pixels = noise(*size)

    picture = thumbnail(pixels)

    np.testing.assert_array_equal(np.asarray(opened(picture)), pixels)
    assert picture.pixelated
    assert picture.width % size[1] == picture.height % size[0] == 0
    assert picture.width // size[1] == picture.height // size[0] >= 2


@pytest.mark.parametrize(
    ("size", "expected"), [((1000, 500), (320, 160)), ((300, 4000), (24, 320)), ((1, 9000), (1, 320))]
)
def test_a_large_image_becomes_a_thumbnail_of_the_same_aspect(size, expected):
    picture = thumbnail(noise(*size))

    assert (picture.height, picture.width) == expected
    assert opened(picture).size == (picture.width, picture.height)
    assert not picture.pixelated
    assert len(picture.uri) < 200_000


def test_a_middle_sized_image_keeps_its_size():
    picture = thumbnail(noise(200, LARGEST))

    assert (picture.width, picture.height, picture.pixelated) == (LARGEST, 200, False)


def test_transparency_is_kept():
    alpha = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32).astype(np.uint8)

    image = opened(thumbnail(noise(32, 32), alpha))

    assert image.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(image)[:, :, 3], alpha)


def test_an_overlay_tints_the_mask_and_nothing_else():
    mask = np.zeros((32, 32), bool)
    mask[4:9, 20:31] = True

    shown = np.asarray(opened(overlay(noise(32, 32), mask))).astype(int)

    gray = (shown[:, :, 0] == shown[:, :, 1]) & (shown[:, :, 1] == shown[:, :, 2])
    np.testing.assert_array_equal(~gray, mask)


def test_a_mask_of_one_pixel_is_seen_in_a_thumbnail():
    pixels = np.full((3000, 3000, 3), 128, np.uint8)
    mask = np.zeros((3000, 3000), bool)
    mask[1234, 567] = True

    shown = np.asarray(opened(overlay(pixels, mask)).convert("RGB")).astype(int)

    spread = shown.max(axis=2) - shown.min(axis=2)
    y, x = np.unravel_index(spread.argmax(), spread.shape)
    assert spread.max() > 25
    assert (y, x) == pytest.approx((1234 * 320 / 3000, 567 * 320 / 3000), abs=2)


def test_a_difference_shows_what_changed_outside_the_mask_alone():
    source = noise(32, 32)
    output = source.copy()
    mask = np.zeros((32, 32), bool)
    mask[:10] = True
    output[5, 5] = 255 - output[5, 5]  # inside
    output[20, 3, 1] = source[20, 3, 1] - 6 if source[20, 3, 1] >= 6 else source[20, 3, 1] + 6
    output[25, 30, 2] = source[25, 30, 2] - 3 if source[25, 30, 2] >= 3 else source[25, 30, 2] + 3

    picture, largest = difference(source, output, mask)

    expected = np.zeros((32, 32), np.uint8)
    expected[20, 3], expected[25, 30] = 255, 127
    assert largest == 6
    np.testing.assert_array_equal(np.asarray(opened(picture)), expected)


def test_a_single_changed_pixel_of_a_large_image_is_seen():
    source = np.zeros((1700, 2300, 3), np.uint8)
    output = source.copy()
    output[1699, 2299] = 1

    picture, largest = difference(source, output, np.zeros((1700, 2300), bool))

    shown = np.asarray(opened(picture).convert("L"))
    assert largest == 1
    assert (picture.width, picture.height) == (320, 237)
    assert shown[-1, -1] > 150
    assert shown[:-20, :-20].max() < 20


def test_images_without_a_difference_give_a_black_picture():
    picture, largest = difference(noise(40, 40), noise(40, 40), np.zeros((40, 40), bool))

    assert largest == 0
    assert not np.asarray(opened(picture)).any()


def test_a_histogram_has_its_highest_bar_at_one_and_shows_a_single_value():
    bars = histogram(np.array([0.0] * 99 + [1.0]), bins=4)

    assert bars[0] == 1
    assert bars[1:3] == [0, 0]
    assert bars[3] == pytest.approx((1 / 99) ** 0.5)


def test_a_histogram_of_one_value_has_one_bar():
    assert sorted(histogram(np.array([0.25, 0.25]), bins=3)) == [0, 0, 1]
