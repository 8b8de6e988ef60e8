"""The library's solvers are fed what they expect: they end where the exact flow ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from retouch.diffusion.sampling import Prediction
from retouch.diffusion.schedule import scaled_linear
from retouch.diffusion.solvers import solve

DEVIATION = 0.5  # of the data that the denoiser knows exactly


def denoise(x: torch.Tensor, t: object) -> Prediction:
    """eps of normal data of a known deviation."""
    level = float(scaled_linear().alphas_cumprod[int(t)])
    return Prediction(x * float(np.sqrt(1 - level)) / (level * DEVIATION**2 + 1 - level))


@pytest.mark.parametrize("solver", ["dpm++", "unipc"])
def test_a_solver_brings_noise_to_the_datas_deviation(solver: str) -> None:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    end = solve(solver, denoise, x, scaled_linear(), 20, record=lambda _, t: seen.append(t))
    level = float(scaled_linear().alphas_cumprod[999])
    begin = np.sqrt(level * DEVIATION**2 + 1 - level)
    torch.testing.assert_close(end, x * DEVIATION / begin, rtol=0.02, atol=0.0)
    assert len(seen) == 20
    assert seen == sorted(seen, reverse=True)
    assert torch.equal(solve(solver, denoise, x[:1], scaled_linear(), 20), end[:1])
