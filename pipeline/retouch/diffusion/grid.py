"""DiffusionCLIP's timesteps: a few points between the clean image and level t_0, walked up and down.

Integers only; knows neither schedule nor step. Source: Kim, Kwon, Ye 2022 (DiffusionCLIP) and its published
code.
"""

from __future__ import annotations

import numpy as np


def time_grid(t_0: int, n: int) -> list[int]:
    """Timesteps from 0 to t_0, both among them, n of them, ascending: evenly spaced in float64, then cut to integers.

    With n = 0 every timestep below t_0; t_0 itself is then not among them, as published.
    """
    if n == 0:
        return list(range(t_0))
    return [int(t) for t in np.linspace(0.0, 1.0, n) * t_0]


def inversion_path(t_0: int, n: int) -> list[int]:
    """From the image to its latent: the grid upwards, n - 1 steps. The image counts as x at timestep 0."""
    return time_grid(t_0, n)


def generation_path(t_0: int, n: int) -> list[int]:
    """From a latent to the clean image (-1): the grid downwards, n steps."""
    return [*reversed(time_grid(t_0, n)), -1]
