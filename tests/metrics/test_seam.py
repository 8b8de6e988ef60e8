from __future__ import annotations

import numpy as np
import pytest
from retouch.metrics.seam import SeamL1
from retouch.plugins import Metric, column_types
from retouch.schema import Batch, Pixels


def make_batch(image: Pixels, mask: slice = slice(2, 6)) -> Batch:
    covered = np.zeros(image.shape[:2], bool)
    covered[mask, mask] = True
    return Batch(image[None], covered[None], ["cat"], seed=[0])


def seam(batch: Batch, edited: Pixels) -> float | None:
    (score,) = SeamL1().score_batch(batch, edited[None])
    found: float | None = score["seam_l1"]
    return found


def ramp() -> Pixels:
    """[8,8,3], 10 levels per pixel to the right."""
    return np.repeat(np.tile(np.arange(8, dtype=np.uint8) * 10, (8, 1))[..., None], 3, axis=2)


def test_it_keeps_the_contract_of_a_metric() -> None:
    metric = SeamL1.load({}, "cpu")
    assert isinstance(metric, Metric)
    (score,) = metric.score_batch(make_batch(ramp()), ramp()[None])
    assert list(score) == list(column_types(metric.columns))


def test_an_offset_is_a_seam_and_the_unedited_image_has_none() -> None:
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert seam(make_batch(grey), grey) == 0.0
    assert seam(make_batch(grey), grey + 30) == 30.0
    assert seam(make_batch(grey), grey - 100) == 100.0  # uint8 must not wrap


def test_the_sources_own_steps_do_not_count() -> None:
    assert seam(make_batch(ramp()), ramp()) == 0.0
    # Eight pairs of rows go from 0 to 5. Of eight pairs of columns the left four go from 10 to 15, the right to 5.
    assert seam(make_batch(ramp()), ramp() + 5) == pytest.approx((8 * 5 + 4 * 15 + 4 * 5) / 16 - 8 * 10 / 16)


def test_what_the_edit_has_outside_the_mask_does_not_count() -> None:
    batch = make_batch(ramp())
    edited = np.where(batch.mask[0][..., None], ramp() + 9, 255).astype(np.uint8)
    assert seam(batch, edited) == seam(batch, ramp() + 9)


def test_a_mask_without_an_edge_has_no_seam() -> None:
    assert seam(make_batch(ramp(), slice(0, 8)), ramp() + 9) is None
    assert seam(make_batch(ramp(), slice(0, 0)), ramp() + 9) is None
