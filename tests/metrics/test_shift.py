from __future__ import annotations

import numpy as np
import pytest
from retouch.metrics.shift import ShiftPx
from retouch.plugins import Metric, column_types
from retouch.schema import Batch
from skimage import data

pytestmark = pytest.mark.slow


def test_it_is_the_distance_outside_the_mask_and_null_where_nothing_can_be_compared() -> None:
    picture = data.astronaut()[100:228, 150:278]
    moved = data.astronaut()[96:224, 153:281]  # four down, three to the left
    flat = np.full_like(picture, 90)
    mask = np.zeros((3, 128, 128), bool)
    mask[0, 40:80, 40:80] = True
    mask[1] = True
    batch = Batch(np.stack([picture, picture, flat]), mask, ["cat"] * 3, seed=[0, 0, 0])
    metric = ShiftPx.load({}, "cpu")
    assert isinstance(metric, Metric)
    masked, whole, none = metric.score_batch(batch, np.stack([moved, moved, flat]))
    assert set(masked) == set(column_types(metric.columns))
    assert masked["shift_px"] == pytest.approx(5.0, abs=0.2)
    assert whole["shift_px"] == pytest.approx(5.0, abs=0.2)
    assert none["shift_px"] is None
