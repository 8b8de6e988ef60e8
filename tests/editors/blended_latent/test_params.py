"""Blended Latent Diffusion's params mean something, or say in one line why not."""

from __future__ import annotations

import dataclasses

import pytest
from retouch.editors.blended_latent.params import PRESETS, Params
from retouch.errors import ConfigError


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper", (50, 5.0, 0.0, "source", "before", "t", "sample", "nearest")),
        ("repo_sd2", (50, 7.5, 0.25, "noise", "after", "t", "mean", "nearest")),
        ("repo_sdxl", (50, 5.0, 0.25, "source", "after", "t", "mean", "nearest")),
    ],
)
def test_a_preset_is_a_published_variant(preset: str, expected: tuple[object, ...]) -> None:
    params = Params(preset=preset).resolved()  # type: ignore[arg-type]
    found = (params.steps, params.guidance_scale, params.skip, params.start, params.blend, params.renoise)
    assert (*found, params.posterior, params.mask_resize) == expected
    assert (params.fresh_noise, params.shrink, params.pixel_blending, params.background) == (True, 0, 0.0, "none")
    assert (params.background_steps, params.background_weight) == (75, 100.0)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"preset": "sd3"}, "no preset named 'sd3'; there are: paper, repo_sd2, repo_sdxl"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"skip": 1.0}, "skip is 1.0"),
        ({"skip": -0.1}, "skip is -0.1"),
        ({"pixel_blending": 1.5}, "pixel_blending is 1.5"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"background_weight": -1.0}, "background_weight is -1.0"),
        ({"shrink": -1}, "shrink is -1"),
        ({"background_steps": 0}, "background_steps is 0"),
        ({"renoise": "next", "preset": "paper"}, "renoise is next but blend is before"),
        ({"renoise": "next", "blend": "before"}, "renoise is next but blend is before"),
        ({"negative_prompt": "blurred", "guidance_scale": 1.0}, "negative_prompt is not read with guidance_scale 1"),
        ({"strength": 1.0}, "params.strength: unknown key"),
    ],
)
def test_what_cannot_mean_anything_is_refused_in_one_line(values: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        Params().overridden(values)
    assert "\n" not in str(caught.value)


def test_a_given_value_wins_over_the_preset_and_a_rows_preset_over_the_jobs() -> None:
    job = Params(preset="paper", skip=0.5)
    assert (job.resolved().skip, job.resolved().blend) == (0.5, "before")
    row = job.overridden({"preset": "repo_sdxl"})
    assert (row.resolved().skip, row.resolved().blend) == (0.5, "after")
    assert row == dataclasses.replace(job, preset="repo_sdxl")
    assert job.overridden({}) is job


def test_every_preset_settles_all_that_it_may_settle() -> None:
    for preset in PRESETS:
        values = vars(Params(preset=preset).resolved())  # type: ignore[arg-type]
        assert {name for name, value in values.items() if value is None} == ({"preset"} if preset is None else set())
