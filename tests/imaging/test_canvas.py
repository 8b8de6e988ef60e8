"""A canvas keeps its image bit for bit, and its strips cover the rest, each pixel once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.imaging.canvas import extend, new_area, place, strips
from retouch.imaging.regions import Region
from retouch.jobs.canvas import SIDES

sides = st.integers(1, 40)
margin = st.integers(0, 50) | st.floats(0, 1)
margins = st.fixed_dictionaries(dict.fromkeys(SIDES, margin))
passes = st.integers(1, 6) | st.just("auto")


@settings(max_examples=150, deadline=None)
@given(height=sides, width=sides, added=margins, seed=st.integers(0, 99))
def test_the_image_lies_on_its_canvas_bit_for_bit_and_the_rest_is_new(
    height: int, width: int, added: dict, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame, size = place((height, width), added)
    canvas = extend(image, frame, size)
    assert canvas.shape == (*size, 3)
    assert np.array_equal(canvas[frame.slices], image)
    assert np.array_equal(extend(image[..., 0], frame, size), canvas[..., 0])
    mask = new_area(frame, size)
    assert mask.sum() == size[0] * size[1] - height * width
    assert not mask[frame.slices].any()


@settings(max_examples=150, deadline=None)
@given(height=sides, width=sides, added=margins, network=st.integers(1, 32), steps=passes)
def test_strips_paint_every_new_pixel_once_and_no_old_one(
    height: int, width: int, added: dict, network: int, steps: int | str
) -> None:
    frame, size = place((height, width), added)
    painted = np.zeros(size, int)
    done = frame
    for strip in strips(frame, size, network, steps):  # type: ignore[arg-type]
        assert strip.before == done
        assert strip.mask.any()
        painted[strip.after.slices] += strip.mask
        done = strip.after
    assert done == Region(0, 0, size[1], size[0])
    assert np.array_equal(painted, new_area(frame, size).astype(int))


@settings(max_examples=150, deadline=None)
@given(height=sides, width=sides, added=margins, network=st.integers(2, 32))
def test_a_pass_adds_at_most_half_of_what_the_network_sees(height: int, width: int, added: dict, network: int) -> None:
    frame, size = place((height, width), added)
    for strip in strips(frame, size, network, "auto"):
        sideways = strip.side in ("left", "right")
        long, thin = strip.after.shape if sideways else strip.after.shape[::-1]
        new = thin - (strip.before.width if sideways else strip.before.height)
        assert new <= max(1, max(network, long) // 2)


@settings(max_examples=100, deadline=None)
@given(height=sides, width=sides, added=margins, seed=st.integers(0, 99), steps=passes)
def test_a_pass_keeps_what_the_passes_before_it_painted(
    height: int, width: int, added: dict, seed: int, steps: int | str
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame, size = place((height, width), added)
    done = image
    for strip in strips(frame, size, 16, steps):  # type: ignore[arg-type]
        grown = strip.extend(done)
        assert grown.shape[:2] == strip.after.shape
        assert np.array_equal(grown[~strip.mask].reshape(-1, 3), done.reshape(-1, 3))
        done = grown
    assert np.array_equal(done[frame.slices], image)


def test_the_order_in_which_a_job_names_the_sides_changes_nothing() -> None:
    forth, back = (dict.fromkeys(order, 5) for order in (SIDES, SIDES[::-1]))
    assert place((8, 9), forth) == place((8, 9), back)
    frame, size = place((8, 9), forth)
    assert [strip.side for strip in strips(frame, size, 8, 1)] == list(SIDES)


@pytest.mark.parametrize(
    ("added", "frame", "size"),
    [
        ({"left": 3}, Region(3, 0, 23, 10), (10, 23)),
        ({"right": 0.25, "top": 0.5}, Region(0, 5, 20, 15), (15, 25)),
        ({"left": 1.0}, Region(20, 0, 40, 10), (10, 40)),  # a share, as wide as the image
        ({"left": 1}, Region(1, 0, 21, 10), (10, 21)),  # a pixel
        ({"bottom": 0.01}, Region(0, 0, 20, 10), (10, 20)),
    ],
)
def test_integers_are_pixels_and_fractions_shares(added: dict, frame: Region, size: tuple[int, int]) -> None:
    assert place((10, 20), added) == (frame, size)


def test_a_strip_is_filled_by_reflection() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 6)
    frame, size = place((2, 6), {"left": 2, "right": 3})
    left, right = strips(frame, size, 6, 1)
    assert left.extend(image).tolist() == [[2, 1, 0, 1, 2, 3, 4, 5], [8, 7, 6, 7, 8, 9, 10, 11]]
    assert right.extend(left.extend(image))[0].tolist() == [2, 1, 0, 1, 2, 3, 4, 5, 4, 3, 2]
