"""Which boxes count, how holes grow and which square is shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retouch.training.exemplar.boxes import RandomDraws, area, extended, padded, square_window, usable


def test_boxes_of_pixels_and_relative_ones_are_the_same_boxes() -> None:
    assert usable([[10, 20, 50, 60]], 100, 80, 0.02, 0.8) == usable([[0.1, 0.25, 0.5, 0.75]], 100, 80, 0.02, 0.8)


@pytest.mark.parametrize(
    "box", [[0, 0, 100, 90], [0, 0, 1, 1], [0, 0, 10, 19], [50, 50, 40, 60], [0, 0, float("nan"), 10], [1, 2, 3], None]
)
def test_boxes_too_large_too_small_or_without_meaning_are_not_used(box: list[float]) -> None:
    assert usable([box], 100, 100, 0.02, 0.8) == []


def test_a_box_that_reaches_beyond_the_image_is_cut_at_its_border() -> None:
    assert usable([[-20, 30.4, 60.6, 150]], 100, 100, 0.02, 0.8) == [(0, 30, 61, 100)]


@given(st.integers(8, 300), st.integers(8, 300), st.tuples(*[st.floats(0, 1)] * 4), st.integers(0, 2**32))
def test_the_shown_window_lies_in_the_image_and_holds_the_hole(
    width: int, height: int, corners: tuple[float, ...], seed: int
) -> None:
    x0, x1 = sorted(round(share * width) for share in corners[:2])
    y0, y1 = sorted(round(share * height) for share in corners[2:])
    draws = RandomDraws(np.random.default_rng(seed))

    wide = extended(draws, (x0, y0, x1, y1), width, height)
    window = square_window(draws, wide, width, height)

    assert 0 <= window[0] <= wide[0] <= x0
    assert 0 <= window[1] <= wide[1] <= y0
    assert x1 <= wide[2] <= window[2] <= width
    assert y1 <= wide[3] <= window[3] <= height
    whole = window == (0, 0, width, height)
    assert whole or window[2] - window[0] == window[3] - window[1]
    assert area(window) >= area(wide)


def test_a_hole_wider_than_the_image_is_high_shows_the_whole_image() -> None:
    assert square_window(RandomDraws(np.random.default_rng(0)), (0, 10, 90, 20), 100, 50) == (0, 0, 100, 50)


def test_padding_stops_at_the_border() -> None:
    assert padded((5, 20, 95, 60), 10, 100, 64) == (0, 10, 100, 64)
