"""Mean and covariance of features, mergeable, and the Frechet distance of two Gaussians. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from retouch.errors import ConfigError
from retouch.plugins import State

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of N vectors: their number, mean [D] and scatter [D,D], the sum of outer products about the mean; float64.

    About the mean, not about zero: features whose mean is large against their spread would lose their covariance in a
    difference of two large numbers.
    """

    count: int
    mean: Floats
    scatter: Floats

    @classmethod
    def of(cls, features: npt.NDArray[Any]) -> Moments:
        """Moments of features [N,D], N >= 1."""
        x = np.asarray(features, dtype=np.float64)
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both together (Chan, Golub and LeVeque 1979, equation 2.1, in D dimensions)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Floats:
        """[D,D], divided by N - 1 as every published FID has it.

        Raises:
            ConfigError: fewer than two vectors.
        """
        if self.count < 2:
            raise ConfigError("a Frechet distance needs at least 2 images on either side, one has 1")
        return self.scatter / (self.count - 1)

    def state(self) -> State:
        """As arrays by name."""
        return {"count": np.array([self.count], np.int64), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: State) -> Moments:
        """From ``state``'s arrays."""
        return cls(int(state["count"][0]), state["mean"], state["scatter"])


def merged(states: Sequence[State]) -> State:
    """The state of all vectors of several states."""
    return reduce(Moments.__add__, map(Moments.from_state, states)).state()


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + Tr(A + B - 2 (A B)^1/2), the squared Frechet distance of two Gaussians; at least 0.

    The last trace is taken as the sum of the singular values of A^1/2 B^1/2: these are the square roots of the
    eigenvalues of A B, but come out of symmetric parts without a square root of their rounding errors, and stay real
    where A or B is singular (fewer images than features), where the root of a product A B has to be patched.
    """
    cov_a, cov_b = a.covariance, b.covariance
    apart = a.mean - b.mean
    overlap = np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum()
    return max(0.0, float(apart @ apart + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap))


def _root(covariance: Floats) -> Floats:
    """Symmetric square root; what is nothing but rounding (D eps of the largest eigenvalue) counts as zero."""
    values, vectors = np.linalg.eigh(covariance)
    values[values < values[-1] * len(values) * np.finfo(np.float64).eps] = 0
    root: Floats = (vectors * np.sqrt(values)) @ vectors.T
    return root
