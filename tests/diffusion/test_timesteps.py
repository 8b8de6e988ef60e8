"""The timesteps of DiffusionCLIP and of latent diffusion are those of the original authors' code."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retouch.diffusion.schedule import scaled_linear
from retouch.diffusion.timesteps import generation_path, inversion_path, latent_diffusion_path, time_grid
from retouch.errors import ConfigError

from tests.helpers.golden_set import assert_within, golden

TENSORS, ENTRY = golden("diffusionclip_sequences.safetensors")
CASES = sorted({name.rpartition(".")[0].removeprefix("out.") for name in TENSORS if ".ninv_" in name})


@pytest.mark.parametrize("case", CASES)
def test_every_step_of_both_ways_starts_and_ends_where_the_original_codes_does(case):
    t_0, n_inv, n_gen = map(int, re.fullmatch(r"t0_(\d+)\.ninv_(\d+)\.ntest_(\d+)", case).groups())
    for way, path in (("inv", inversion_path(t_0, n_inv)), ("gen", generation_path(t_0, n_gen))):
        assert path[:-1] == TENSORS[f"out.{case}.{way}_t"].tolist()
        assert path[1:] == TENSORS[f"out.{case}.{way}_t_next"].tolist()


def test_the_set_has_every_case_that_its_description_lists():
    assert len(CASES) == len(ENTRY["config"]["cases_t0_ninv_ntest"]) > 0


@given(st.integers(1, 999), st.integers(2, 60))
def test_the_grid_holds_both_ends_and_never_turns_back(t_0, n):
    grid = time_grid(t_0, n)
    assert (len(grid), grid[0], grid[-1]) == (n, 0, t_0)
    assert all(low <= high for low, high in pairwise(grid))


@given(st.integers(1, 999))
def test_no_skip_walks_every_timestep_below_t_0(t_0):
    assert time_grid(t_0, 0) == list(range(t_0))
    assert generation_path(t_0, 0) == list(range(t_0 - 1, -2, -1))


def test_latent_diffusions_grids_and_their_levels_are_the_original_authors() -> None:
    tensors, entry = golden("pbe_schedules.safetensors")
    schedule, limit = scaled_linear(entry["config"]["timesteps"]), entry["tolerance"]["others"]
    for steps in entry["config"]["steps"]:
        path = latent_diffusion_path(schedule, steps)
        assert path[:-1] == tensors[f"out.plms{steps}.t"].tolist()
        assert path[1:-1] == tensors[f"out.plms{steps}.t_next"].tolist()[:-1]
        levels = torch.from_numpy(schedule.alphas_cumprod)
        upwards = path[::-1]
        assert_within(levels[upwards[1:]], tensors[f"out.ddim{steps}.ddim_alphas"], limit)
        assert_within(levels[upwards[:-1]], tensors[f"out.ddim{steps}.ddim_alphas_prev"], limit)


def test_steps_that_do_not_divide_the_schedule_give_the_published_count() -> None:
    schedule = scaled_linear()
    counts = {steps: len(latent_diffusion_path(schedule, steps)) - 1 for steps in (50, 30, 60, 150)}
    assert counts == {50: 50, 30: 31, 60: 63, 150: 167}


@given(st.integers(-5, 1100))
def test_every_grid_lies_on_the_schedule_or_is_refused(steps: int) -> None:
    schedule = scaled_linear()
    try:
        path = latent_diffusion_path(schedule, steps)
    except ConfigError:
        return
    assert path[0] < len(schedule)
    assert path[-2:] == [1, 0]
    assert len(path) - 1 >= steps
    assert len({a - b for a, b in pairwise(path[:-1])}) == 1


@pytest.mark.parametrize(("steps", "instead"), [(300, 334), (600, 500), (1000, 500), (27, 26)])
def test_a_grid_that_would_begin_beyond_the_schedule_is_refused_with_a_near_one(steps: int, instead: int) -> None:
    with pytest.raises(ConfigError, match=f"{steps} steps would begin at timestep 1000.*give {instead}$"):
        latent_diffusion_path(scaled_linear(), steps)
    latent_diffusion_path(scaled_linear(), instead)
