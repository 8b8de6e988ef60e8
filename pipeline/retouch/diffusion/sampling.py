"""Sampling along a schedule: predictions, the DDPM and DDIM steps, and the loop.

A *denoiser* is a function ``(x_t, t) -> Prediction`` with all conditioning inside; guidance wraps it. ``t`` is a step
of the schedule, one int for the whole batch or an int64 tensor [B]. x is NCHW, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from retouch.diffusion.schedule import F64, Schedule

Timestep = int | Tensor  # one for the batch, or int64 [B]


@dataclass(frozen=True)
class Prediction:
    """A denoiser's prediction at x_t.

    ``log_variance`` is that of the step to t-1 if the network learned it, else None. ``grad`` is the gradient of
    log p(condition | x_t), i.e. *minus* that of a loss; None without guidance.
    """

    eps: Tensor  # [B,C,H,W]
    log_variance: Tensor | None = None  # [B,C,H,W]
    grad: Tensor | None = None  # [B,C,H,W]


@dataclass(frozen=True)
class Stepped:
    """x after a step, and the clean image that the step predicted from x_t."""

    x: Tensor
    x0: Tensor


Denoise = Callable[[Tensor, Timestep], Prediction]
Step = Callable[[Tensor, Prediction, Timestep, Timestep, Tensor | None], Stepped]
Network = Callable[..., Tensor]  # (x [B,C,H,W], timesteps [B]), and classes [B] if it has them


def gather(values: F64, t: Timestep, like: Tensor) -> Tensor | float:
    """Return ``values[t]``: a float for one t, a tensor [B,1,1,1] for many."""
    if isinstance(t, int):
        return float(values[t])
    chosen = torch.from_numpy(values)[t.cpu()].to(like.device, like.dtype)
    return chosen.view(-1, *[1] * (like.ndim - 1))


def q_sample(schedule: Schedule, x0: Tensor, t: Timestep, noise: Tensor) -> Tensor:
    """Return x0 noised to level t (Ho et al. 2020, eq. 4)."""
    signal = gather(np.sqrt(schedule.alphas_cumprod), t, x0)
    return signal * x0 + gather(np.sqrt(1.0 - schedule.alphas_cumprod), t, x0) * noise


def predict_x0(schedule: Schedule, x_t: Tensor, t: Timestep, eps: Tensor) -> Tensor:
    """Return the clean image in x_t if its noise is eps. Not clamped."""
    scale = gather(np.sqrt(1.0 / schedule.alphas_cumprod), t, x_t)
    return scale * x_t - gather(np.sqrt(1.0 / schedule.alphas_cumprod - 1.0), t, x_t) * eps


def posterior_mean(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Timestep) -> Tensor:
    """Return the mean of q(x_{t-1} | x_t, x_0) (Ho et al. 2020, eq. 7)."""
    from_x0 = gather(schedule.posterior_mean_coef1, t, x_t) * x0
    return from_x0 + gather(schedule.posterior_mean_coef2, t, x_t) * x_t


def learned_range(schedule: Schedule, t: Timestep, v: Tensor) -> Tensor:
    """Return the log-variance between the posterior's and beta at v in about [-1, 1] (Nichol 2021, eq. 15)."""
    share = (v + 1) / 2
    upper = gather(np.log(schedule.betas), t, v)
    return share * upper + (1 - share) * gather(schedule.posterior_log_variance_clipped, t, v)


def fixed_small(schedule: Schedule) -> F64:
    """Return the posterior's log-variance, for networks that learned none."""
    return schedule.posterior_log_variance_clipped


def fixed_large(schedule: Schedule) -> F64:
    """Return log-variance beta (the posterior's at t = 0), for networks that learned none."""
    return np.asarray(np.log(np.append(schedule.posterior_variance[1:2], schedule.betas[1:])))


def denoiser(
    network: Network,
    schedule: Schedule,
    *,
    learn_sigma: bool,
    variance: Literal["range", "raw"] = "range",
    labels: Callable[[], Tensor] | None = None,
) -> Denoise:
    """Return a denoiser that calls a network with its own timesteps and splits off the learned variance.

    Args:
        network: returns eps [B,C,H,W], or eps and v [B,2C,H,W] with ``learn_sigma``.
        schedule: the (respaced) schedule to sample along.
        learn_sigma: whether the network returns v.
        variance: ``range`` passes v to ``learned_range``, as such networks are trained; ``raw`` takes v as the
            log-variance itself, as DiffusionCLIP's published code does in its ``ddpm`` branch.
        labels: draws the classes [B] of one pass; None passes no class to the network.
    """

    def denoise(x_t: Tensor, t: Timestep) -> Prediction:
        timesteps = _network_timesteps(schedule, t, x_t)
        out = network(x_t, timesteps, labels()) if labels else network(x_t, timesteps)
        if not learn_sigma:
            return Prediction(out)
        eps, v = out.chunk(2, dim=1)
        v = v.detach()
        return Prediction(eps, v if variance == "raw" else learned_range(schedule, t, v))

    return denoise


def _network_timesteps(schedule: Schedule, t: Timestep, x_t: Tensor) -> Tensor:
    if isinstance(t, int):
        return torch.full((len(x_t),), int(schedule.timestep_map[t]), device=x_t.device)
    return torch.from_numpy(schedule.timestep_map)[t.cpu()].to(x_t.device)


def ddpm(schedule: Schedule, fixed_log_variance: Callable[[Schedule], F64] = fixed_small) -> Step:
    """Return the step t -> t-1; a gradient shifts the mean by variance x grad (Dhariwal and Nichol 2021, alg. 1).

    ``x0`` of the result is the unguided one. ``t_next`` is always t-1: use a respaced schedule for longer strides.
    """
    fallback = fixed_log_variance(schedule)

    def step(x_t: Tensor, prediction: Prediction, t: Timestep, t_next: Timestep, noise: Tensor | None) -> Stepped:
        x0 = predict_x0(schedule, x_t, t, prediction.eps)
        mean = posterior_mean(schedule, x0, x_t, t)
        log_variance = prediction.log_variance
        if log_variance is None:
            log_variance = _filled(gather(fallback, t, x_t), x_t)
        if prediction.grad is not None:
            mean = mean + log_variance.exp() * prediction.grad
        if isinstance(t, int) and t == 0:
            return Stepped(mean, x0)
        if noise is None:
            raise ValueError(f"a DDPM step from t = {t} needs noise")
        return Stepped(mean + _not_at_zero(t, x_t) * (0.5 * log_variance).exp() * noise, x0)

    return step


def ddim(schedule: Schedule, eta: float = 0.0) -> Step:
    """Return the step t -> t_next (Song et al. 2021, eq. 12); a gradient shifts eps (Dhariwal and Nichol 2021, alg. 2).

    ``t_next`` may be any step: smaller to denoise (-1 = clean), larger to invert (N = pure noise; with eta 0 only).
    ``x0`` of the result is the guided one. With eta 0 no noise is needed.
    """
    # Index -1 reads the last entry and N the one before it: one array serves both ends.
    levels = np.concatenate([schedule.alphas_cumprod, [0.0, 1.0]])

    def step(x_t: Tensor, prediction: Prediction, t: Timestep, t_next: Timestep, noise: Tensor | None) -> Stepped:
        eps = prediction.eps
        if prediction.grad is not None:
            eps = eps - gather(np.sqrt(1.0 - schedule.alphas_cumprod), t, x_t) * prediction.grad
        x0 = predict_x0(schedule, x_t, t, eps)
        level, level_next = gather(levels, t, x_t), gather(levels, t_next, x_t)
        if eta == 0:
            return Stepped(level_next**0.5 * x0 + (1 - level_next) ** 0.5 * eps, x0)
        if noise is None:
            raise ValueError(f"a DDIM step with eta {eta} needs noise")
        sigma = eta * ((1 - level_next) / (1 - level)) ** 0.5 * (1 - level / level_next) ** 0.5
        mean = level_next**0.5 * x0 + (1 - level_next - sigma**2) ** 0.5 * eps
        return Stepped(mean + sigma * noise, x0)

    return step


def _filled(value: Tensor | float, like: Tensor) -> Tensor:
    """Return a number as a tensor filled on the device, because a copy to it would wait for all running kernels."""
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=like.dtype, device=like.device)


def _not_at_zero(t: Timestep, like: Tensor) -> Tensor | float:
    if isinstance(t, int):
        return float(t != 0)
    return (t != 0).to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))


def sample(
    denoise: Denoise,
    x: Tensor,
    timesteps: Sequence[int],
    *,
    step: Step,
    noise: Callable[[], Tensor] | None = None,
    after_step: Callable[[Tensor, int], Tensor] | None = None,
) -> Stepped:
    """Take x along a path of timesteps, one network pass per step.

    Args:
        denoise: called at each point of the path but the last.
        x: [B,C,H,W] at level ``timesteps[0]``.
        timesteps: the path of x with both ends: ``[74, ..., 0, -1]`` denoises to the clean image, an ascending path
            inverts.
        step: ``ddpm(...)`` or ``ddim(...)``.
        noise: draws one step's noise [B,C,H,W]; None for deterministic steps.
        after_step: replaces x after each step; its second argument is the t before the step.

    Returns:
        x at the end (after ``after_step``) and the last step's x0.
    """
    stepped = None
    for t, t_next in pairwise(timesteps):
        stepped = step(x, denoise(x, t), t, t_next, noise() if noise else None)
        x = after_step(stepped.x, t) if after_step else stepped.x
    if stepped is None:
        raise ValueError("a path of timesteps needs at least two points")
    return Stepped(x, stepped.x0)


def downward(schedule: Schedule, skip: int = 0) -> range:
    """Return the path from the noisiest step, without the first ``skip``, to the clean image: N-skip-1, ..., 0, -1."""
    return range(len(schedule) - skip - 1, -2, -1)
