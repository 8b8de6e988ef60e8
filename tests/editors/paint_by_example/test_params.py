"""Paint by Example's params mean something, or say in one line why not."""

from __future__ import annotations

import dataclasses

import pytest
from retouch.editors.paint_by_example.params import Params
from retouch.errors import ConfigError


def test_the_defaults_are_the_published_examples() -> None:
    params = Params()
    assert (params.steps, params.sampler, params.eta, params.guidance_scale) == (50, "plms", 0.0, 5.0)
    assert (params.reference, params.mask_resize, params.posterior, params.tokens) == (
        "squash",
        "bilinear",
        "sample",
        "class",
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"eta": 1.5, "sampler": "ddim"}, "eta is 1.5"),
        ({"eta": 0.5}, "eta is 0.5 but plms is deterministic; take ddim"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"scale": 1.0}, "params.scale: unknown key"),
    ],
)
def test_what_cannot_mean_anything_is_refused_in_one_line(values: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        Params().overridden(values)
    assert "\n" not in str(caught.value)


def test_a_rows_own_values_win_and_leave_the_jobs_as_they_were() -> None:
    job = Params(steps=20, sampler="ddim")
    row = job.overridden({"guidance_scale": 7.5})
    assert row == dataclasses.replace(job, guidance_scale=7.5)
    assert job.guidance_scale == 5.0
    assert job.overridden({}) is job
