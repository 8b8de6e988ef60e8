"""Latent diffusion's schedule, PLMS and DDIM are the original authors'."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler
from retouch.diffusion.plms import plms
from retouch.diffusion.sampling import Prediction, ddim, sample
from retouch.diffusion.schedule import Schedule, named, scaled_linear
from retouch.diffusion.timesteps import latent_diffusion_path

from tests.helpers.golden_set import assert_within, golden

FILE = "pbe_schedules.safetensors"


def published() -> tuple[dict[str, torch.Tensor], dict[str, object], Schedule]:
    tensors, entry = golden(FILE)
    return tensors, dict(entry["config"]), scaled_linear(entry["config"]["timesteps"])


def test_the_betas_are_the_original_authors() -> None:
    tensors, config, schedule = published()
    limit = golden(FILE)[1]["tolerance"]["others"]
    assert (config["linear_start"], config["linear_end"]) == (0.00085, 0.012)  # what scaled_linear stands for
    assert_within(torch.from_numpy(schedule.betas), tensors["out.betas_f64"], limit)
    assert_within(torch.from_numpy(schedule.alphas_cumprod), tensors["out.alphas_cumprod"], limit)
    assert named("scaled_linear", config["timesteps"]).betas[0] == schedule.betas[0]


def test_the_ddim_steps_noise_has_the_original_authors_deviation() -> None:
    tensors, config, schedule = published()
    limit = golden(FILE)[1]["tolerance"]["others"]
    # The original rounds its levels to float32 first, and the difference of two neighbours at t = 1 shows it.
    schedule.__dict__["alphas_cumprod"] = tensors["out.alphas_cumprod"].double().numpy()
    zero, one = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for steps in config["steps"]:
        path = latent_diffusion_path(schedule, steps)
        move = ddim(schedule, eta=1.0)
        sigmas = [float(move(zero, Prediction(zero), t, n, one).x) for t, n in pairwise(path)]
        assert_within(torch.tensor(sigmas[::-1], dtype=torch.float64), tensors[f"out.ddim{steps}.sigmas_eta1.0"], limit)


def test_plms_looks_ahead_once_and_remembers_one_walk_only() -> None:
    schedule = scaled_linear()
    seen: list[int] = []

    def denoise(x: torch.Tensor, t: object) -> Prediction:
        seen.append(int(t))
        return Prediction(torch.sin(x) * (1 + int(t) / 1000))

    path = latent_diffusion_path(schedule, 50)
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    first = sample(denoise, x, path, step=plms(schedule, denoise)).x
    assert len(seen) == 51
    assert seen[:3] == [981, 961, 961]
    assert torch.equal(sample(denoise, x, path, step=plms(schedule, denoise)).x, first)


def test_plms_of_four_orders_falls_faster_than_ddim() -> None:
    """On a problem with a known end: eps = x sqrt(1 - a) keeps x on its own path."""
    schedule = scaled_linear()

    def denoise(x: torch.Tensor, t: object) -> Prediction:  # the score of unit-normal data
        return Prediction(x * float(np.sqrt(1 - schedule.alphas_cumprod[int(t)])))

    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    path = latent_diffusion_path(schedule, 20)
    exact = 1.0  # the flow leaves unit-normal data where they are
    by_ddim = abs(float(sample(denoise, x, path, step=ddim(schedule)).x) - exact)
    by_plms = abs(float(sample(denoise, x, path, step=plms(schedule, denoise)).x) - exact)
    assert by_plms < by_ddim / 5


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_plms_walks_where_diffusers_own_pndm_walks(steps: int) -> None:
    schedule = scaled_linear()

    def denoise(x: torch.Tensor, t: object) -> Prediction:
        return Prediction(torch.sin(3 * x) * (1 + int(t) / 1000))

    theirs = PNDMScheduler(
        trained_betas=schedule.betas.tolist(), skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False
    )
    theirs.set_timesteps(steps)
    x = start = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for t in theirs.timesteps:
        x = theirs.step(denoise(x, int(t)).eps, t, x).prev_sample
    ours = sample(denoise, start, latent_diffusion_path(schedule, steps), step=plms(schedule, denoise)).x
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)
