"""The PLMS step, latent diffusion's multistep sampler."""

from __future__ import annotations

import torch
from torch import Tensor

from retouch.diffusion.sampling import Denoise, Prediction, Step, Stepped, Timestep, ddim
from retouch.diffusion.schedule import Schedule

# Weights of eps now and at the steps before, newest first (Adams-Bashforth of orders 2 to 4; Liu et al. 2022, eq. 12).
ADAMS_BASHFORTH = (
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def plms(schedule: Schedule, denoise: Denoise) -> Step:
    """Return a pseudo linear multistep step (Liu et al. 2022): DDIM's, with eps extrapolated from four steps.

    The function keeps the last eps of one sampling run, so make a new one for each run. The first step has no history
    and looks ahead: it calls the denoiser once more, at the point that it would reach, and takes the mean.
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
