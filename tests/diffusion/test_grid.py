"""DiffusionCLIP's timesteps are the original code's, point for point."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retouch.diffusion.grid import generation_path, inversion_path, time_grid

from tests.helpers.golden_set import golden

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
