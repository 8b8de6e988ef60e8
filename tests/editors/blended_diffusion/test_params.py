"""Presets give what is not given; wrong values are refused in words."""

import dataclasses

import pytest
from retouch.editors.blended_diffusion.params import PRESETS, Params, ResolvedParams
from retouch.errors import ConfigError
from retouch.plugins import check_params


@pytest.mark.parametrize("preset", PRESETS)
def test_every_field_has_its_type_whatever_the_preset(preset):
    resolved = dataclasses.asdict(Params(preset=preset).resolved())
    check_params(ResolvedParams, resolved, "the resolved params")
    assert None not in [value for name, value in resolved.items() if name != "preset"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_its_fields_and_no_other(preset):
    params = Params(preset=preset, skip_timesteps=3)
    assert vars(params.resolved()) == {**vars(params), **vars(PRESETS[preset])}


@pytest.mark.parametrize(("name", "value"), [("aug_num", 8), ("distance", "spherical"), ("lpips_lambda", 0.0)])
def test_a_given_field_wins_over_the_preset_even_where_it_is_the_default(name, value):
    assert getattr(Params(preset="paper", **{name: value}).resolved(), name) == value


def test_a_row_overrides_the_job_and_its_preset_what_the_job_did_not_give():
    job = Params(preset="repo", aug_num=2, skip_timesteps=3)
    row = job.overridden({"preset": "paper", "timesteps": 50})
    assert (row.aug_num, row.skip_timesteps, row.timesteps) == (2, 3, 50)
    assert row == Params(preset="paper", aug_num=2, skip_timesteps=3, timesteps=50)
    assert job.overridden({"distance": "cosine"}) == Params(
        preset="repo", aug_num=2, skip_timesteps=3, distance="cosine"
    )
    assert job.overridden({}) is job


def test_an_unknown_name_in_a_row_is_a_config_error():
    with pytest.raises(ConfigError, match=r"params\.aug_nums: unknown key; did you mean aug_num\?"):
        Params().overridden({"aug_nums": 4})


def test_what_a_rows_preset_says_is_resolved_after_it_is_over_the_jobs():
    row = Params(preset="repo", aug_num=2).overridden({"preset": "paper"}).resolved()
    assert (row.aug_num, row.distance) == (2, "cosine")


def test_a_record_of_the_params_makes_the_same_params():
    params = Params(preset="paper", aug_num=3)
    assert Params(**dataclasses.asdict(params)) == params


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "papers"},
        {"aug_num": 0},
        {"skip_timesteps": -1},
        {"eta": 1.5},
        {"clip_guidance_lambda": -1.0},
        {"range_lambda": -1.0},
        {"lpips_lambda": -1.0},
        {"l2_lambda": -1.0},
    ],
)
def test_values_that_cannot_be_are_a_config_error_that_names_them(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        Params(**wrong)


@pytest.mark.parametrize("wrong", [{"distance": "euclid"}, {"sampler": "plms"}, {"timesteps": []}, {"blend": "maybe"}])
def test_a_job_files_wrong_types_are_a_config_error(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        check_params(Params, wrong, "editor blended_diffusion")


def test_the_baseline_neither_blends_nor_pastes():
    assert (Params().blends, Params().pastes) == (True, True)
    assert (Params(local_clip_guided=True).blends, Params(local_clip_guided=True).pastes) == (False, False)
    assert (Params(blend=False).blends, Params(blend=False).pastes) == (False, True)
