from __future__ import annotations

from typing import Any

import pytest
from retouch.errors import ConfigError
from retouch.jobs.finetune_params import FinetuneParams
from retouch.plugins import check_params


def test_the_defaults_are_the_published_numbers() -> None:
    p = FinetuneParams()
    assert (p.n_inv, p.n_train, p.n_test) == (40, 6, 40)
    assert (p.images, p.batch, p.lr_factor, p.lr_every) == (50, 1, 1.3, 0)
    assert (p.direction_weight, p.direction_form, p.templates) == (3.0, "log", "imagenet")
    assert (p.views, p.masked_views, p.clip_norm, p.range_weight, p.global_weight) == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"t_0": 1}, "t_0 is 1"),
        ({"t_0": 1000}, "t_0 is 1000; give a timestep of 2 to 999"),
        ({"n_inv": 1}, "n_inv is 1"),
        ({"n_train": 0}, "n_train is 0"),
        ({"n_test": -3}, "n_test is -3"),
        ({"images": 0}, "images is 0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"views": 0}, "views is 0"),
        ({"save_every": 0}, "save_every is 0"),
        ({"test_images": -1}, "test_images is -1"),
        ({"lr_every": -1}, "lr_every is -1"),
        ({"clip_norm": -0.1}, "clip_norm is -0.1"),
        ({"l1_weight": -1}, "l1_weight is negative"),
        ({"direction_weight": 0}, "nothing draws to the target"),
        ({"learning_rate": 0}, "learning_rate and lr_factor"),
        ({"lr_factor": 0}, "learning_rate and lr_factor"),
        ({"masked_share": 1.1}, "shares; give 0 to 1"),
        ({"l1_inside": -0.1}, "shares; give 0 to 1"),
        ({"steps": 3}, "target x.steps: unknown key"),
        ({"mode": "fast"}, "target x.mode: got"),
        ({"images": "many"}, "target x.images: got"),
    ],
)
def test_what_cannot_be_meant_is_one_line_that_names_it(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_params(FinetuneParams, values, "target x")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_target_alone_may_draw_without_a_direction() -> None:
    assert FinetuneParams(direction_weight=0, global_weight=1).direction_weight == 0


@pytest.mark.parametrize(("views", "share", "masked"), [(8, 0.5, 4), (8, 0.0, 0), (3, 0.4, 1), (4, 1.0, 4)])
def test_the_masked_share_counts_views(views: int, share: float, masked: int) -> None:
    assert FinetuneParams(views=views, masked_share=share).masked_views == masked
