"""Mixed denoisers against the original code's single steps, and what a mix must not do."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retouch.diffusion.mixing import by_ratio, hybrid
from retouch.diffusion.sampling import Prediction, ddim, ddpm, denoiser, q_sample
from retouch.diffusion.schedule import named
from retouch.errors import ConfigError

from tests.helpers.golden_set import assert_within, golden

TENSORS, ENTRY = golden("diffusionclip_denoising_step.safetensors")
X, NOISE = TENSORS["in.x"], TENSORS["in.noise"]
SCHEDULE = named("linear")
CASES = sorted(name.removeprefix("out.") for name in TENSORS if name.startswith("out.t"))


def fake_networks(learn_sigma):
    """The networks that the golden set's notes describe."""

    def fake(a, b, g):
        def network(x, t):
            eps = a * x + b * t.float().view(-1, 1, 1, 1)
            return torch.cat([eps, g * x - 4.0], dim=1) if learn_sigma else eps

        return denoiser(network, SCHEDULE, learn_sigma=learn_sigma, variance="raw")

    return [fake(*numbers) for numbers in ENTRY["config"]["fake_nets"]]


def published_weights(mix):
    """The weights of a hybrid, from the description of its result."""
    meaning = next(entry["meaning"] for name, entry in ENTRY["tensors"].items() if name.endswith(f".{mix}"))
    found = re.findall(r"(\d+):\[([^]]*)\]", meaning)
    assert found
    return {int(threshold): [float(weight) for weight in weights.split(",")] for threshold, weights in found}


def mixed(kind, networks):
    original, *tuned = networks
    if kind.startswith("ratio"):
        return by_ratio(original, tuned[0], float(kind.removeprefix("ratio")))
    if kind.startswith("hybrid"):
        weights = published_weights(kind)
        return hybrid(tuned[: int(kind.removeprefix("hybrid"))], weights)
    return original


@pytest.mark.parametrize("case", CASES)
def test_a_step_of_every_sampler_and_mix_equals_the_original_codes(case):
    t, t_next, sigma, kind = re.fullmatch(r"t(\d+)_to(-?\d+)\.ls([01])\.(.+)", case).groups()
    ref = TENSORS[f"out.{case}"]
    sampler = ddpm(SCHEDULE) if kind.endswith("ddpm") else ddim(SCHEDULE, eta_of(kind))
    denoise = mixed(kind.removesuffix("_ddpm"), fake_networks(sigma == "1"))
    stepped = sampler(X, denoise(X, int(t)), int(t), int(t_next), NOISE)
    got = stepped.x0 if kind == "x0_t" else stepped.x
    assert_within(got[: len(ref)], ref, ENTRY["tolerance"]["all"], case)


def eta_of(kind):
    return float(kind.removeprefix("ddim_eta")) if kind.startswith("ddim_eta") else 0.0


def test_the_random_start_equals_the_original_codes():
    (name,) = (name for name in TENSORS if name.startswith("out.xt_stochastic_t0_"))
    t_0 = int(name.rpartition("_")[2])
    assert_within(q_sample(SCHEDULE, X, t_0 - 1, NOISE), TENSORS[name], ENTRY["tolerance"]["all"], name)


def says(value, log_variance=None):
    """A denoiser that predicts one number; None where it must not be asked."""

    def denoise(x, t):
        assert value is not None, "a network of weight 0 was called"
        variance = None if log_variance is None else torch.full_like(x, log_variance)
        return Prediction(torch.full_like(x, value), variance)

    return denoise


def eps_of(denoise, t=5):
    return denoise(torch.zeros(1, 1, 1, 1), t).eps.item()


@pytest.mark.parametrize(("ratio", "networks"), [(0, (2.0, None)), (1, (None, 2.0))])
def test_a_ratio_of_none_or_all_calls_one_network_only(ratio, networks):
    assert eps_of(by_ratio(says(networks[0]), says(networks[1]), ratio)) == 2.0


@given(st.floats(-3, 3))
def test_a_ratio_mixes_predictions_linearly_also_beyond_its_ends(ratio):
    mix = by_ratio(says(1.0, -2.0), says(3.0, -4.0), ratio)
    prediction = mix(torch.zeros(1, 1, 1, 1), 5)
    assert prediction.eps.item() == pytest.approx(1 + 2 * ratio, abs=1e-5)
    assert prediction.log_variance.item() == pytest.approx(-2 - 2 * ratio, abs=1e-5)


def test_the_first_threshold_at_most_t_decides_in_the_order_given():
    networks = [says(1.0), says(3.0)]
    falling, rising = {300: [1, 1], 0: [3, 1]}, {0: [3, 1], 300: [1, 1]}
    assert [eps_of(hybrid(networks, falling), t) for t in (0, 299, 300, 999)] == [1.5, 1.5, 2.0, 2.0]
    assert [eps_of(hybrid(networks, rising), t) for t in (0, 300)] == [1.5, 1.5]


def test_a_network_of_weight_nought_is_not_called():
    assert eps_of(hybrid([says(1.0), says(3.0), says(None)], {0: [1, 1, 0]})) == 2.0


def test_networks_without_a_variance_mix_to_none():
    assert by_ratio(says(1.0), says(2.0), 0.5)(torch.zeros(1, 1, 1, 1), 5).log_variance is None


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({300: [1, 1], 0: [1]}, r"1 weights at threshold 0 for 2 network\(s\)"),
        ({300: [1, -1], 0: [1, 1]}, "at threshold 300 sum to 0"),
        ({300: [1, 1]}, "no weights below t = 300; give a threshold 0"),
        ({}, "no weights at all"),
    ],
)
def test_weights_that_cannot_mix_are_a_config_error_that_names_the_threshold(weights, words):
    with pytest.raises(ConfigError, match=words):
        hybrid([says(1.0), says(2.0)], weights)


def test_a_hybrid_refuses_entries_at_different_timesteps():
    with pytest.raises(TypeError, match="one timestep for the whole batch"):
        hybrid([says(1.0)], {0: [1]})(torch.zeros(2, 1, 1, 1), torch.tensor([1, 2]))
