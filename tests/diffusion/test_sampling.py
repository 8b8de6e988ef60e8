"""Steps and the loop against the original code's numbers and against what they must mean."""

import pytest
import torch
from retouch.diffusion.sampling import (
    Prediction,
    ddim,
    ddpm,
    denoiser,
    downward,
    fixed_large,
    fixed_small,
    posterior_mean,
    predict_x0,
    q_sample,
    sample,
)
from retouch.diffusion.schedule import named, respace

from tests.diffusion.test_schedule import ENTRY, TENSORS, golden_schedule
from tests.helpers.golden_set import assert_within

TOLERANCE = ENTRY["tolerance"]["others"]
STEPPED = sorted(name.split(".")[1] for name in TENSORS if name.startswith("in.") and name.endswith(".t"))
X, NOISE, GRAD = TENSORS["in.x"], TENSORS["in.noise"], TENSORS["in.grad"]


def fake_network(x, timesteps):
    """The network that the golden set's notes describe, from its formulas."""
    values = {"x": x, "t": timesteps.float().view(-1, 1, 1, 1)}
    formulas = (ENTRY["config"]["fake_model_eps"], ENTRY["config"]["fake_model_v"])
    return torch.cat([eval(formula, {}, values) for formula in formulas], dim=1)


def predicted(spec):
    schedule, t = golden_schedule(spec), TENSORS[f"in.{spec}.t"]
    prediction = denoiser(fake_network, schedule, learn_sigma=ENTRY["config"]["learn_sigma"])(X, t)
    return schedule, t, prediction


def check(spec, name, got):
    assert_within(got, TENSORS[f"out.{spec}.{name}"], TOLERANCE, f"{spec}.{name}")


@pytest.mark.parametrize("spec", STEPPED)
def test_noising_equals_the_original_codes(spec):
    schedule, t, _ = predicted(spec)
    check(spec, "q_sample", q_sample(schedule, X, t, NOISE))


@pytest.mark.parametrize("spec", STEPPED)
def test_mean_and_learned_variance_equal_the_original_codes(spec):
    schedule, t, prediction = predicted(spec)
    x0 = predict_x0(schedule, X, t, prediction.eps)
    for clip, seen in (("clip0", x0), ("clip1", x0.clamp(-1, 1))):
        check(spec, f"{clip}.p_mean_variance.pred_xstart", seen)
        check(spec, f"{clip}.p_mean_variance.mean", posterior_mean(schedule, seen, X, t))
        check(spec, f"{clip}.p_mean_variance.log_variance", prediction.log_variance)
        check(spec, f"{clip}.p_mean_variance.variance", prediction.log_variance.exp())


@pytest.mark.parametrize("spec", STEPPED)
def test_the_ddpm_step_and_its_guided_mean_equal_the_original_codes(spec):
    schedule, t, prediction = predicted(spec)
    for name, grad in (("uncond", None), ("cond", GRAD)):
        guided = Prediction(prediction.eps, prediction.log_variance, grad)
        stepped = ddpm(schedule)(X, guided, t, t - 1, NOISE)
        check(spec, f"p_sample.{name}.sample", stepped.x)
        check(spec, f"p_sample.{name}.pred_xstart", stepped.x0)
    silent = ddpm(schedule)(X, guided, t, t - 1, torch.zeros_like(NOISE))
    check(spec, "condition_mean", silent.x)


@pytest.mark.parametrize("spec", STEPPED)
def test_the_ddim_step_and_its_guided_eps_equal_the_original_codes(spec):
    schedule, t, prediction = predicted(spec)
    for name, grad in (("uncond", None), ("cond", GRAD)):
        guided = Prediction(prediction.eps, prediction.log_variance, grad)
        for eta in etas(spec):
            stepped = ddim(schedule, float(eta))(X, guided, t, t - 1, NOISE)
            check(spec, f"ddim_sample.{name}.eta{eta}.sample", stepped.x)
            check(spec, f"ddim_sample.{name}.eta{eta}.pred_xstart", stepped.x0)
    check(spec, "condition_score.pred_xstart", stepped.x0)
    check(spec, "condition_score.mean", posterior_mean(schedule, stepped.x0, X, t))


def etas(spec):
    names = (name.split(".eta")[1] for name in TENSORS if name.startswith(f"out.{spec}.ddim_sample.cond.eta"))
    return sorted({name.removesuffix(".sample").removesuffix(".pred_xstart") for name in names})


@pytest.mark.parametrize("spec", STEPPED)
def test_the_ddim_step_runs_backwards_too(spec):
    schedule, t, prediction = predicted(spec)
    stepped = ddim(schedule)(X, prediction, t, t + 1, None)
    check(spec, "ddim_reverse.sample", stepped.x)
    check(spec, "ddim_reverse.pred_xstart", stepped.x0)


@pytest.mark.parametrize("spec", STEPPED)
def test_a_network_sees_its_own_timesteps(spec):
    seen = []

    def network(x, timesteps):
        seen.append(timesteps)
        return fake_network(x, timesteps)

    schedule, t = golden_schedule(spec), TENSORS[f"in.{spec}.t"]
    denoise = denoiser(network, schedule, learn_sigma=True)
    denoise(X, t)
    denoise(X, int(t[0]))
    assert seen[0].float().tolist() == TENSORS[f"out.{spec}.t_seen_by_cond_fn"].tolist()
    assert seen[1].tolist() == [int(schedule.timestep_map[int(t[0])])] * len(X)


def test_one_timestep_for_all_is_the_same_as_many_equal_ones():
    schedule = respace(named("linear"), 20)
    prediction = Prediction(0.3 * X, grad=GRAD)
    for step in (ddpm(schedule), ddim(schedule, 0.5), ddim(schedule)):
        for t in (0, 7, 19):
            one = step(X, prediction, t, t - 1, NOISE)
            many = torch.full((len(X),), t)
            each = step(X, prediction, many, many - 1, NOISE)
            torch.testing.assert_close(one.x, each.x, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(one.x0, each.x0, rtol=1e-6, atol=1e-6)


def test_noise_that_is_known_exactly_is_removed_exactly():
    schedule = respace(named("cosine"), 10)
    x0 = X.clamp(-1, 1)

    def knows(x_t, t):
        level = float(schedule.alphas_cumprod[t])
        return Prediction((x_t - level**0.5 * x0) / (1 - level) ** 0.5)

    start = q_sample(schedule, x0, 6, NOISE)
    for step, noise in ((ddim(schedule), None), (ddpm(schedule), lambda: NOISE), (ddim(schedule, 1.0), lambda: NOISE)):
        end = sample(knows, start, range(6, -2, -1), step=step, noise=noise)
        torch.testing.assert_close(end.x0, x0, rtol=0, atol=1e-5)
        torch.testing.assert_close(end.x, x0, rtol=0, atol=1e-5)


def test_inversion_along_the_same_path_leads_back():
    schedule = respace(named("linear"), 250)

    def denoise(x_t, t):
        return Prediction(0.1 * x_t)

    up = sample(denoise, X, range(100), step=ddim(schedule)).x
    down = sample(denoise, up, range(99, -1, -1), step=ddim(schedule)).x
    assert (down - X).abs().max() < 0.02 * X.abs().max()


def test_the_loop_goes_on_from_what_after_step_made_of_x():
    schedule = respace(named("linear"), 8)
    seen = []

    def after_step(x, t):
        seen.append(t)
        return x + 1

    def denoise(x_t, t):
        return Prediction(0.2 * x_t)

    step, expected = ddim(schedule), X
    for t in (4, 3, 2, 1, 0):
        expected = step(expected, denoise(expected, t), t, t - 1, None).x + 1
    end = sample(denoise, X, downward(schedule, 3), step=step, after_step=after_step)
    assert seen == [4, 3, 2, 1, 0]
    assert torch.equal(end.x, expected)


@pytest.mark.parametrize(("skip", "start"), [(25, 74), (33, 66), (40, 59)])
def test_skipping_leaves_as_many_steps_as_published(skip, start):
    path = downward(respace(named("linear"), 100), skip)
    assert (path[0], path[-1], len(path) - 1) == (start, -1, start + 1)


def test_networks_without_a_variance_get_a_fixed_one():
    schedule = respace(named("linear"), 10)
    zero = Prediction(torch.zeros_like(X))
    for fixed, variance in ((fixed_small, schedule.posterior_variance), (fixed_large, schedule.betas)):
        step = ddpm(schedule, fixed)
        spread = step(X, zero, 4, 3, NOISE).x - step(X, zero, 4, 3, 0 * NOISE).x
        torch.testing.assert_close(spread, float(variance[4]) ** 0.5 * NOISE, rtol=1e-4, atol=1e-5)


def test_a_random_step_refuses_to_go_without_noise():
    schedule = respace(named("linear"), 10)
    for step in (ddpm(schedule), ddim(schedule, 0.5)):
        with pytest.raises(ValueError, match="needs noise"):
            step(X, Prediction(X), 3, 2, None)


def test_a_path_of_one_point_is_no_path():
    with pytest.raises(ValueError, match="two points"):
        sample(lambda x, t: Prediction(x), X, [3], step=ddim(named("linear")))
