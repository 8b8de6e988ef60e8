"""Holes as the original authors' code cut them, and the paper's variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retouch.training.exemplar.boxes import Box, RandomDraws, extended, square_window
from retouch.training.exemplar.mask_shapes import (
    PUBLISHED_POINTS,
    box_hole,
    curves,
    filled,
    free_hole,
    outline,
    without_repeats,
)
from torch.nn import functional as F  # noqa: N812

from tests.helpers.golden_set import assert_within, golden, tolerance

FILE = "pbe_mask_bezier.safetensors"


class Recorded:
    """Integers that the original code drew, in its order."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.rows = list(rows)

    def integer(self, low: int, high: int) -> int:
        wanted_low, wanted_high, value = self.rows.pop(0)
        assert (low, high) == (wanted_low, wanted_high)
        return value


def cases() -> list[tuple[int, Mapping[str, Any]]]:
    return list(enumerate(golden(FILE)[1]["config"]["cases"]))


@pytest.mark.parametrize(("number", "case"), cases())
@pytest.mark.parametrize("kind", ["bezier", "box"])
def test_a_sample_is_cut_as_the_original_cut_it_from_the_same_draws(
    number: int, case: Mapping[str, Any], kind: str
) -> None:
    tensors, entry = golden(FILE)
    tolerances = entry["tolerance"]
    ref = {
        name.split(".", 3)[3]: value for name, value in tensors.items() if name.startswith(f"out.case{number}.{kind}.")
    }
    draws = Recorded(ref["randint_lo_hi_value"].tolist())
    width, height, box = case["W"], case["H"], tuple(case["bbox"])

    wide = extended(draws, box, width, height)
    assert list(wide) == ref["extended_bbox"].tolist()
    if kind == "bezier":
        jitter = int(ref["randint_lo_hi_value"][:, 1][4])
        points = outline(draws, box, wide, "published", jitter)
        assert_within(
            torch.tensor(points, dtype=torch.float64), ref["polygon"], tolerances["polygon, boxes"].split(" / ")[0]
        )
        plain = np.array([point for side in curves(box, wide, PUBLISHED_POINTS) for point in without_repeats(side)])
        assert_within(torch.from_numpy(plain), ref["curve_points"], tolerances["polygon, boxes"].split(" / ")[0])
        hole, wanted = filled(points, width, height), ref["mask_u8"].numpy() < 128
        assert (hole & wanted).sum() / (hole | wanted).sum() >= float(tolerances["mask_u8"].split(">= ")[1].split()[0])
    else:
        hole = box_hole(wide, width, height)
    x0, y0, x1, y1 = square_window(draws, wide, width, height)

    assert not draws.rows, "the original drew more numbers"
    assert [y1 - y0, x1 - x0] == ref["cropped_size_hw"].tolist()
    keep = torch.from_numpy(~hole[y0:y1, x0:x1])[None].float()
    np.testing.assert_array_equal((keep * 255).byte(), ref["cropped_mask_u8"])
    size = (case["image_size"],) * 2
    small = F.interpolate(keep[None], size, mode="bilinear", align_corners=False, antialias=False)[0]
    assert (small - ref["inpaint_mask"]).abs().max() <= tolerance(tolerances["inpaint_mask"]).absolute


boxes = st.tuples(st.integers(20, 200), st.integers(20, 200), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.2, 0.5))


def placed(numbers: tuple[int, int, float, float, float]) -> tuple[int, int, Box]:
    width, height, left, top, share = numbers
    x0, y0 = int(left * width), int(top * height)
    return width, height, (x0, y0, x0 + max(int(share * width), 4), y0 + max(int(share * height), 4))


@given(boxes, st.integers(0, 2**32), st.sampled_from(["published", "paper"]))
def test_a_free_hole_stays_near_its_extended_box_and_covers_the_boxs_middle(
    numbers: tuple[int, int, float, float, float], seed: int, how: Any
) -> None:
    width, height, box = placed(numbers)
    draws = RandomDraws(np.random.default_rng(seed))
    wide = extended(draws, box, width, height)

    hole = free_hole(draws, box, wide, width, height, how, jitter=1)

    ys, xs = np.nonzero(hole)
    assert hole.shape == (height, width)
    assert wide[0] - 2 <= xs.min()
    assert xs.max() <= wide[2] + 2
    assert wide[1] - 2 <= ys.min()
    assert ys.max() <= wide[3] + 2
    assert hole[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2]


def test_the_papers_outline_has_twenty_points_a_side_each_moved_by_one_to_five_pixels() -> None:
    box, wide = (40, 40, 80, 90), (20, 30, 110, 100)

    moved = np.array(outline(RandomDraws(np.random.default_rng(1)), box, wide, "paper", 5))

    away = np.abs(moved - np.concatenate(curves(box, wide, 20)))
    assert len(moved) == 80
    np.testing.assert_allclose(away, away.round(), atol=1e-9)
    assert set(np.unique(away.round())) == {1, 2, 3, 4, 5}


def test_a_flat_side_keeps_few_points_and_a_bulging_one_many() -> None:
    flat, bulging = (without_repeats(side) for side in curves((10, 10, 50, 50), (10, 10, 70, 50), 18)[:2])
    assert len(flat) < 9 < len(bulging)
