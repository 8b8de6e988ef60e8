"""Noise schedules and their respacing, in float64.

Everything is indexed by t, the step of *this* schedule (0 = least noise). ``timestep_map[t]`` is the timestep that a
network was trained on; only the wrapper of a network reads it, so a respaced index is never inferred from a timestep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, repeat

import numpy as np
import numpy.typing as npt

from retouch.errors import ConfigError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A forward process of N steps and the quantities that follow from its betas (Ho et al. 2020, eq. 4 and 7).

    All arrays are float64 [N]; cast after gathering, never before.
    """

    betas: F64
    timestep_map: I64  # [N], strictly increasing: the network's timestep at each t

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> F64:
        """Product of (1 - beta) up to and including t: the signal's share of the variance."""
        return np.asarray(np.cumprod(1.0 - self.betas))

    @cached_property
    def alphas_cumprod_prev(self) -> F64:
        """``alphas_cumprod`` one step cleaner; 1 at t = 0."""
        return np.append(1.0, self.alphas_cumprod[:-1])

    @cached_property
    def posterior_variance(self) -> F64:
        """Variance of q(x_{t-1} | x_t, x_0); 0 at t = 0."""
        return np.asarray(self.betas * (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod))

    @cached_property
    def posterior_log_variance_clipped(self) -> F64:
        """Logarithm of the posterior variance, with t = 1 repeated at t = 0, where the variance is 0."""
        return np.asarray(np.log(np.append(self.posterior_variance[1:2], self.posterior_variance[1:])))

    @cached_property
    def posterior_mean_coef1(self) -> F64:
        """Weight of x_0 in the mean of q(x_{t-1} | x_t, x_0)."""
        return np.asarray(self.betas * np.sqrt(self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod))

    @cached_property
    def posterior_mean_coef2(self) -> F64:
        """Weight of x_t in the mean of q(x_{t-1} | x_t, x_0)."""
        share = (1.0 - self.alphas_cumprod_prev) / (1.0 - self.alphas_cumprod)
        return np.asarray(share * np.sqrt(1.0 - self.betas))


def linear(steps: int = 1000) -> Schedule:
    """Return betas evenly spaced from 1e-4 to 0.02 (Ho et al. 2020), times 1000/steps (Dhariwal and Nichol 2021)."""
    scale = 1000 / steps
    return from_betas(np.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=np.float64))


def cosine(steps: int = 1000) -> Schedule:
    """Return squared-cosine ``alphas_cumprod`` with betas capped at 0.999 (Nichol and Dhariwal 2021, eq. 17)."""
    u = np.arange(steps + 1, dtype=np.float64) / steps
    alphas_cumprod = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return from_betas(np.minimum(1.0 - alphas_cumprod[1:] / alphas_cumprod[:-1], 0.999))


def scaled_linear(steps: int = 1000) -> Schedule:
    """Return betas whose square roots are evenly spaced from 0.00085 to 0.012 (latent diffusion)."""
    return from_betas(np.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=np.float64) ** 2)


SCHEDULES: dict[str, Callable[[int], Schedule]] = {"linear": linear, "cosine": cosine, "scaled_linear": scaled_linear}


def named(name: str, steps: int = 1000) -> Schedule:
    """Return the schedule of this name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"no noise schedule named {name!r}; there are: {', '.join(sorted(SCHEDULES))}")
    return SCHEDULES[name](steps)


def from_betas(betas: F64) -> Schedule:
    """Return a schedule whose t is the network's own timestep."""
    return Schedule(betas=betas, timestep_map=np.arange(len(betas)))


def respace(schedule: Schedule, steps: int | str) -> Schedule:
    """Return a schedule with fewer steps over the same noise levels: ``alphas_cumprod`` is preserved at those kept.

    Args:
        schedule: the process to thin out.
        steps: ``100`` or ``"100"``: that many, both ends included; ``"10,10"``: that many from each of equal sections;
            ``"ddim25"``: an integer stride from 0 (its last step is not the schedule's).

    Raises:
        ConfigError: ``steps`` is none of these, or more than the schedule has.
    """
    kept = _kept_steps(len(schedule), str(steps).strip())
    alphas_cumprod = schedule.alphas_cumprod[kept]
    betas = 1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    return Schedule(betas=betas, timestep_map=schedule.timestep_map[kept])


def _kept_steps(total: int, spec: str) -> I64:
    try:
        if spec.startswith("ddim"):
            return _strided(total, int(spec.removeprefix("ddim")))
        counts = [int(part) for part in spec.split(",")]
    except ValueError:
        raise ConfigError(f"timesteps {spec!r} cannot be read; write 100, '10,10' or 'ddim25'") from None
    return _fractional(total, counts)


def _strided(total: int, count: int) -> I64:
    for stride in range(1, total + 1):
        if len(range(0, total, stride)) == count:
            return np.arange(0, total, stride)
    raise ConfigError(f"no integer stride takes {total} timesteps in {count}; try ddim25, ddim50 or plain {count}")


def _fractional(total: int, counts: list[int]) -> I64:
    size, extra = divmod(total, len(counts))
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        length = size + (section < extra)
        if not 1 <= count <= length:
            raise ConfigError(f"{count} timesteps do not fit a section of {length}; ask for 1 to {length}")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        # Added up, not multiplied: the published maps round the running sum (half to even).
        kept += [start + round(offset) for offset in accumulate(repeat(stride, count - 1), initial=0.0)]
        start += length
    return np.asarray(kept, dtype=np.int64)
