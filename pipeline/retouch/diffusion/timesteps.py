"""The timesteps that published samplers visit, as plain integers: DiffusionCLIP's and latent diffusion's."""

from __future__ import annotations

import numpy as np

from retouch.diffusion.schedule import Schedule
from retouch.errors import ConfigError


def time_grid(t_0: int, n: int) -> list[int]:
    """Return DiffusionCLIP's grid: n timesteps from 0 to t_0, both included, evenly spaced in float64, then truncated.

    With n = 0 every timestep below t_0; t_0 itself is then left out, as in the published code (Kim, Kwon, Ye 2022).
    """
    if n == 0:
        return list(range(t_0))
    return [int(t) for t in np.linspace(0.0, 1.0, n) * t_0]


def inversion_path(t_0: int, n: int) -> list[int]:
    """Return the path from an image to its latent: the grid upwards, n - 1 steps. The image counts as timestep 0."""
    return time_grid(t_0, n)


def generation_path(t_0: int, n: int) -> list[int]:
    """Return the path from a latent to the clean image (-1): the grid downwards, n steps."""
    return [*reversed(time_grid(t_0, n)), -1]


def latent_diffusion_path(schedule: Schedule, steps: int) -> list[int]:
    """Return the timesteps of latent diffusion's samplers, downwards to 0: ``[981, 961, ..., 21, 1, 0]``.

    They index the schedule that the network was trained on, not a respaced one, and end at timestep 0 instead of the
    clean image, as published (``alphas_cumprod[0]`` is the last level).

    The stride is ``1000 // steps`` and the lowest grid point 1. Where ``steps`` does not divide 1000 there are more
    points than requested, as published: 31 for 30, 63 for 60, 167 for 150.

    Raises:
        ConfigError: ``steps`` is under 2 or more than the schedule has, or the grid's highest point lies beyond the
            schedule (300, 600 and 1000 of 1000; the published code fails with an index error there).
    """
    total = len(schedule)
    if not 2 <= steps <= total:
        raise ConfigError(f"steps is {steps}; give 2 to {total}")
    if _exceeds(steps, total):
        nearest = min((s for s in range(2, total + 1) if not _exceeds(s, total)), key=lambda s: (abs(s - steps), s))
        raise ConfigError(
            f"{steps} steps would begin at timestep {total}, where the schedule ends at {total - 1}; give {nearest}"
        )
    return [*reversed([t + 1 for t in range(0, total, total // steps)]), 0]


def _exceeds(steps: int, total: int) -> bool:
    """Return whether the grid's highest point, one more than a multiple of the stride, lies beyond the schedule."""
    return (total - 1) % (total // steps) == 0
