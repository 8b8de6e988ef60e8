"""Knobs out of their range are refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
from retouch.errors import ConfigError
from retouch.jobs.train_params import TrainParams


def test_the_defaults_are_the_published_recipe() -> None:
    params = TrainParams()
    assert (params.learning_rate, params.warmup, params.condition_drop) == (1e-5, 10_000, 0.2)
    assert (params.arbitrary_mask_percent, params.min_area, params.max_area) == (0.5, 0.02, 0.8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"condition_drop": 1.5}, "condition_drop is 1.5"),
        ({"arbitrary_mask_percent": -0.1}, "arbitrary_mask_percent is -0.1"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"min_area": 0.9}, "boxes of 0.9 to 0.8"),
        ({"jitter": 0, "bezier": "paper"}, "jitter is 0"),
    ],
)
def test_a_value_without_meaning_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainParams(**values)
