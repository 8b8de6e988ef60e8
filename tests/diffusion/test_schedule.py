"""Noise schedules against the original code's numbers and their own algebra."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.diffusion.schedule import SCHEDULES, named, respace
from retouch.errors import ConfigError

from tests.helpers.golden_set import assert_within, golden

FILE = "schedule_guided.safetensors"
TENSORS, ENTRY = golden(FILE)
SPECS = sorted(name.split(".")[1] for name in TENSORS if name.endswith(".timestep_map"))
QUANTITIES = sorted(
    name.removeprefix("out.")
    for name, kept in TENSORS.items()
    if name.startswith("out.") and kept.dtype == torch.float64 and not name.endswith("_next")  # which no sampler reads
)


def golden_schedule(spec):
    base = named(ENTRY["config"]["noise_schedule"], ENTRY["config"]["diffusion_steps"])
    return base if spec == "full" else respace(base, spec)


@pytest.mark.parametrize("spec", SPECS)
def test_respacing_keeps_the_steps_that_the_original_code_keeps(spec):
    assert golden_schedule(spec).timestep_map.tolist() == TENSORS[f"out.{spec}.timestep_map"].tolist()


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_float64_quantity_equals_the_original_codes(quantity):
    spec, name = quantity.split(".")
    tolerance = ENTRY["tolerance"]["out.*.betas, *cumprod*, posterior*"]
    ours = torch.from_numpy(getattr(golden_schedule(spec), name))
    assert ours.dtype == torch.float64
    assert_within(ours, TENSORS[f"out.{quantity}"], tolerance, quantity)


@pytest.mark.parametrize(
    ("spec", "length", "start", "end"),
    [
        ("100", 100, [0, 10, 20, 30, 40, 50, 61, 71], [969, 979, 989, 999]),
        ("10,10", 20, [0, 55, 111, 166], [944, 999]),
        ("ddim25", 25, [0, 40], [960]),
        ("ddim50", 50, [0, 20], [980]),
        ("ddim250", 250, [0, 4], [996]),
        (100, 100, [0, 10], [999]),
        (1, 1, [0], [0]),
    ],
)
def test_respacing_of_a_thousand_steps_keeps_the_published_ones(spec, length, start, end):
    kept = respace(named("linear"), spec).timestep_map.tolist()
    assert (len(kept), kept[: len(start)], kept[-len(end) :]) == (length, start, end)


def test_the_linear_schedule_has_the_published_levels():
    levels = named("linear").alphas_cumprod
    expected = {0: 0.9999, 199: 0.659039, 299: 0.396420, 399: 0.195146, 499: 0.078587, 599: 0.025879, 999: 4.03583e-5}
    assert levels[list(expected)] == pytest.approx(list(expected.values()), rel=2e-5)


def test_the_cosine_schedule_is_the_papers_up_to_its_cap():
    schedule = named("cosine")
    u = (np.arange(1, 1001) / 1000 + 0.008) / 1.008
    paper = np.cos(u * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    uncapped = schedule.betas < 0.999
    assert uncapped.sum() == 999
    assert schedule.alphas_cumprod[uncapped] == pytest.approx(paper[uncapped], rel=1e-9)
    assert schedule.betas.max() == 0.999


def test_the_scaled_linear_schedule_has_the_published_ends():
    betas = named("scaled_linear").betas
    assert (betas[0], betas[-1]) == (pytest.approx(0.00085), pytest.approx(0.012))
    assert named("scaled_linear").alphas_cumprod[[0, 1, 981, 999]] == pytest.approx(
        [0.99915, 0.998296, 0.0057755, 0.0046601], rel=1e-4
    )


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    counts=st.lists(st.integers(1, 120), min_size=1, max_size=4),
)
def test_respacing_preserves_the_noise_levels_and_the_order_of_the_steps(name, counts):
    base = named(name)
    thinned = respace(base, ",".join(map(str, counts)))
    assert len(thinned) == sum(counts)
    assert np.all(np.diff(thinned.timestep_map) > 0)
    assert thinned.alphas_cumprod == pytest.approx(base.alphas_cumprod[thinned.timestep_map], rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 1000))
def test_a_plain_count_keeps_both_ends(count):
    kept = respace(named("linear"), count).timestep_map
    assert (len(kept), kept[0], kept[-1]) == (count, 0, 999)


def test_respacing_twice_still_names_the_networks_timesteps():
    assert respace(respace(named("linear"), 100), "10").timestep_map.tolist()[-2:] == [888, 999]


@pytest.mark.parametrize("spec", ["many", "ddim", "10,", "0", "1001", "ddim999", "-5", "600,600"])
def test_timesteps_that_cannot_be_are_a_config_error(spec):
    with pytest.raises(ConfigError):
        respace(named("linear"), spec)


def test_an_unknown_schedule_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match="no noise schedule named 'cubic'; there are: cosine, linear, scaled_linear"):
        named("cubic")
