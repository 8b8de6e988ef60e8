"""A rotated square is extracted upright, and its edit changes that square and nothing else."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from retouch.imaging.quad import FADE, FEATHER, Quad
from retouch.imaging.regions import changed_outside, edge_weights, whole
from skimage import data


def square(x: float, y: float, side: float, degrees: float = 0.0) -> Quad:
    """A square around (x, y), turned clockwise."""
    angle = math.radians(degrees)
    right = np.array([math.cos(angle), math.sin(angle)]) * side / 2
    down = np.array([-right[1], right[0]])
    middle = np.array([x, y])
    return Quad.of([middle - right - down, middle - right + down, middle + right + down, middle + right - down])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Quad, int]:
    """An image, a mask, a square that may leave the image or be nearly nothing, and a network's size."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    source = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.random((height, width)) < draw(st.sampled_from([0.02, 0.5, 1.0]))
    place = st.floats(-30, 70)
    quad = square(draw(place), draw(place), draw(st.floats(0.2, 90)), draw(st.floats(-180, 180)))
    return source, mask, quad, draw(st.integers(1, 24))


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_outside_of_mask_and_square_every_pixel_stays(scene: tuple) -> None:
    source, mask, quad, size = scene
    before = source.copy()
    seen = quad.extract(source, (size, size))
    assert seen.shape == (size, size, 3)
    output = quad.composite(source, 255 - seen, mask)
    assert np.array_equal(source, before)
    assert changed_outside(source, output, mask & quad.footprint(mask.shape)) == 0


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_deep_inside_lies_the_edit_alone(scene: tuple) -> None:
    source, mask, quad, size = scene
    middle, down, _, right = np.array(quad.corners)
    rows, columns = np.indices(mask.shape)
    places = np.stack([columns, rows], axis=-1) - middle
    u, v = (places @ edge / (edge @ edge) for edge in (right - middle, down - middle))
    deep = mask & (np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v)) >= FEATHER)
    edited = np.full((size, size, 3), (10, 200, 90), np.uint8)
    assert (quad.composite(source, edited, mask)[deep] == (10, 200, 90)).all()


@settings(max_examples=150, deadline=None)
@given(scene=scenes(), feather=st.integers(1, 6))
def test_a_feathered_mask_fades_in_the_square_as_it_does_in_a_rectangle(scene: tuple, feather: int) -> None:
    source, mask, quad, size = scene
    edited = np.full((size, size, 3), (10, 200, 90), np.uint8)
    sharp, soft = quad.composite(source, edited, mask), replace(quad, feather=feather).composite(source, edited, mask)
    assert changed_outside(source, soft, mask & quad.footprint(mask.shape)) == 0
    weights = edge_weights(mask, feather)
    assert np.array_equal(soft[weights == 1], sharp[weights == 1])
    expected = source + weights[..., None] * (sharp.astype(np.float64) - source)
    assert np.abs(soft - expected).max() <= 0.5 + 1e-4


@settings(max_examples=200, deadline=None)
@given(scene=scenes())
def test_the_network_is_given_a_mask_wherever_square_and_mask_meet(scene: tuple) -> None:
    _, mask, quad, size = scene
    seen = quad.extract_mask(mask, (size, size))
    assert seen.shape == (size, size)
    if (mask & quad.footprint(mask.shape)).any():
        assert seen.any()
    if not mask.any():
        assert not seen.any()


def test_the_footprint_of_an_upright_square_is_the_pixels_whose_middles_it_holds() -> None:
    covered = square(9.5, 4.5, 4).footprint((20, 24))  # from 7.5 to 11.5 and from 2.5 to 6.5
    expected = np.zeros((20, 24), bool)
    expected[3:7, 8:12] = True
    assert np.array_equal(covered, expected)


def test_an_upright_square_of_the_networks_size_is_copied_bit_for_bit() -> None:
    source = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    quad = square(24.5, 19.5, 16)
    assert np.array_equal(quad.extract(source, (16, 16)), source[12:28, 17:33])
    mask = np.random.default_rng(1).random((40, 50)) < 0.5
    assert np.array_equal(quad.extract_mask(mask, (16, 16)), mask[12:28, 17:33])
    assert np.array_equal(quad.composite(source, quad.extract(source, (16, 16)), whole((40, 50))), source)


def quarters(size: int) -> np.ndarray:
    """Red top left, green top right, blue bottom left, white bottom right."""
    pixels = np.zeros((size, size, 3), np.uint8)
    half = size // 2
    pixels[:half, :half] = (255, 0, 0)
    pixels[:half, half:] = (0, 255, 0)
    pixels[half:, :half] = (0, 0, 255)
    pixels[half:, half:] = 255
    return pixels


@pytest.mark.parametrize("degrees", [0, 30, 90, -135, 180])
@pytest.mark.parametrize("size", [32, 64, 200])
def test_a_pattern_that_lies_turned_in_the_image_comes_out_upright(degrees: int, size: int) -> None:
    canvas = Image.new("RGB", (300, 300))
    canvas.paste(Image.fromarray(quarters(120)), (90, 90))
    turned = np.asarray(canvas.rotate(-degrees, Image.Resampling.BICUBIC))  # Pillow turns anticlockwise
    seen = square(149.5, 149.5, 120, degrees).extract(turned, (size, size)).astype(int)
    sure = np.ones((size, size), bool)  # but for the lines between the quarters and the edge
    near = max(2, size // 20)
    for line in (slice(0, near), slice(size // 2 - near, size // 2 + near), slice(size - near, size)):
        sure[line], sure[:, line] = False, False
    assert np.abs(seen - quarters(size))[sure].max() <= 8


def test_stripes_finer_than_the_network_sees_become_grey_and_no_pattern() -> None:
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 255
    for degrees in (0, 20, 45):
        seen = square(400, 400, 480, degrees).extract(stripes, (32, 32))
        assert np.abs(seen.astype(int) - 127.5).max() < 16


@pytest.mark.parametrize(
    ("side", "size", "bound"), [(256, 256, 2.5), (120, 256, 2.4), (400, 256, 3.2), (480, 256, 3.8)]
)
def test_an_edit_that_changes_nothing_changes_a_photo_by_little(side: int, size: int, bound: float) -> None:
    photo = data.astronaut()
    for degrees in (0, 17, 45):
        quad = square(256, 200, side, degrees)
        back = quad.composite(photo, quad.extract(photo, (size, size)), whole(photo.shape[:2]))
        covered = quad.footprint(photo.shape[:2])
        assert np.abs(back.astype(int) - photo)[covered].mean() < bound


def test_the_edit_fades_in_from_the_squares_edge_without_a_step() -> None:
    source = np.zeros((200, 200, 3), np.uint8)
    quad = square(99.5, 99.5, 128)
    out = quad.composite(source, np.full((64, 64, 3), 255, np.uint8), whole((200, 200)))
    profile = out[100, 30:48, 0].astype(int)
    width = round(128 * FEATHER)
    assert profile[:6].tolist() == [0] * 6
    assert (np.diff(profile[6 : 6 + width]) > 0).all()
    assert np.diff(profile).max() <= 255 / width + 1
    assert profile[6 + width :].tolist() == [255] * (12 - width)


def test_beyond_the_border_the_network_sees_a_mirror_image_that_fades_and_nothing_to_edit() -> None:
    source = np.full((100, 100, 3), 40, np.uint8)
    source[:, :5] = 200
    quad = square(-0.5, 49.5, 80)  # its left half lies outside
    seen = quad.extract(source, (80, 80))
    assert np.array_equal(seen[:, 40:], source[10:90, :40])
    assert (np.abs(seen[:, 39].astype(int) - 200) < 10).all()
    far = 40 - math.ceil(FADE * 80)
    assert (seen[:, :far] == 40).all()
    mask = quad.extract_mask(whole((100, 100)), (80, 80))
    assert not mask[:, :40].any()
    assert mask[:, 40:].all()


def test_a_mask_between_the_networks_pixels_still_reaches_it() -> None:
    mask = np.zeros((200, 200), bool)
    mask[103, 121] = True
    seen = square(100, 100, 160, 30).extract_mask(mask, (8, 8))
    assert seen.sum() == 1


def test_an_image_of_one_pixel_can_be_mirrored_too() -> None:
    source = np.full((1, 1, 3), 77, np.uint8)
    assert (square(0, 0, 9, 12).extract(source, (16, 16)) == 77).all()


def test_a_quad_survives_pickling() -> None:
    quad = square(1, 2, 3, 4)
    assert pickle.loads(pickle.dumps(quad)) == quad
