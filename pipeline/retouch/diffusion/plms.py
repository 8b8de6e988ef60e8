"""Latent diffusion's walk: its grid of timesteps and the PLMS step. Knows no network, context or mask.

The grid stands on the schedule that the network was trained on, not on a respaced one: the walk ends at timestep 0 and
not at the clean image, as the published samplers do (``alphas_cumprod[0]`` is their last level).
"""

from __future__ import annotations

import torch
from torch import Tensor

from retouch.diffusion.sampling import Denoise, Prediction, Step, Stepped, Timestep, ddim
from retouch.diffusion.schedule import Schedule
from retouch.errors import ConfigError

# Weights of eps now and at the steps before, newest first (Adams-Bashforth of orders 2 to 4; Liu et al. 2022, eq. 12).
ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def published_path(schedule: Schedule, steps: int) -> list[int]:
    """Timesteps of latent diffusion's samplers, downwards, and last 0 where they end: ``[981, 961, ..., 21, 1, 0]``.

    The stride is ``1000 // steps`` and the first point 1. Where ``steps`` does not divide 1000 there are more points
    than asked for, as published: 31 for 30, 63 for 60, 167 for 150.

    Raises:
        ConfigError: ``steps`` is under 2 or more than there are, or its last point lies beyond the schedule
            (300, 600 and 1000 of 1000 do, which the published code answers with an index error).
    """
    total = len(schedule)
    if not 2 <= steps <= total:
        raise ConfigError(f"steps is {steps}; give 2 to {total}")
    if _beyond(steps, total):
        nearest = min((s for s in range(2, total + 1) if not _beyond(s, total)), key=lambda s: (abs(s - steps), s))
        raise ConfigError(
            f"{steps} steps would begin at timestep {total}, where the schedule ends at {total - 1}; give {nearest}"
        )
    return [*reversed([t + 1 for t in range(0, total, total // steps)]), 0]


def plms(schedule: Schedule, denoise: Denoise) -> Step:
    """Pseudo linear multistep (Liu et al. 2022): the deterministic DDIM step, with eps extrapolated from four steps.

    A step function of one walk: it keeps the walk's last eps, so make another for the next walk. The first step knows
    none and looks ahead: it asks the denoiser once more, at the point that it would reach, and takes the mean.
    """
    move = ddim(schedule)
    history: list[Tensor] = []  # newest first, at most three

    def step(x_t: Tensor, prediction: Prediction, t: Timestep, t_next: Timestep, noise: Tensor | None) -> Stepped:
        eps = prediction.eps
        if history:
            weights = ADAMS_BASHFORTH[len(history) - 1]
            combined = sum((w * e for w, e in zip(weights, (eps, *history), strict=True)), torch.zeros_like(eps))
        else:
            ahead = move(x_t, prediction, t, t_next, None).x
            combined = (eps + denoise(ahead, t_next).eps) / 2
        history.insert(0, eps)
        del history[3:]
        return move(x_t, Prediction(combined), t, t_next, None)

    return step


def _beyond(steps: int, total: int) -> bool:
    """Whether the grid's last point, one more than a multiple of the stride, is no timestep."""
    return (total - 1) % (total // steps) == 0
