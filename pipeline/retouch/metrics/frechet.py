"""Mergeable mean and covariance of features, and the Frechet distance of two Gaussians."""

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
    """Count, mean [D] and scatter [D,D] of N vectors; the scatter is the sum of outer products about the mean; float64.

    About the mean and not about zero: if the mean is large compared with the spread, the covariance would be lost in
    the difference of two large numbers.
    """

    count: int
    mean: Floats
    scatter: Floats

    @classmethod
    def of(cls, features: npt.NDArray[Any]) -> Moments:
        """Return the moments of features [N,D], N >= 1."""
        x = np.asarray(features, dtype=np.float64)
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both sets together (Chan, Golub and LeVeque 1979, equation 2.1, in D dimensions)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = np.outer(apart, apart) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Floats:
        """[D,D], divided by N - 1 as in every published FID.

        Raises:
            ConfigError: fewer than two vectors.
        """
        if self.count < 2:
            raise ConfigError("a Frechet distance needs at least 2 images on either side, one has 1")
        return self.scatter / (self.count - 1)

    def state(self) -> State:
        """Return the moments as arrays by name."""
        return {"count": np.array([self.count], np.int64), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: State) -> Moments:
        """Return the moments that ``state`` gave as arrays."""
        return cls(int(state["count"][0]), state["mean"], state["scatter"])


def merged(states: Sequence[State]) -> State:
    """Return the state of the vectors of all states together."""
    return reduce(Moments.__add__, map(Moments.from_state, states)).state()


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return |mean_a - mean_b|^2 + Tr(A + B - 2 (A B)^1/2), the squared Frechet distance of two Gaussians; at least 0.

    The last trace is computed as the sum of the singular values of A^1/2 B^1/2. These are the square roots of the
    eigenvalues of A B, without the square root of a rounding error, and they stay real if A or B is singular (fewer
    images than features), where the matrix square root of A B needs patching.
    """
    cov_a, cov_b = a.covariance, b.covariance
    apart = a.mean - b.mean
    overlap = np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum()
    return max(0.0, float(apart @ apart + np.trace(cov_a) + np.trace(cov_b) - 2 * overlap))


def _root(covariance: Floats) -> Floats:
    """Return the symmetric square root; eigenvalues below the rounding error (D eps of the largest) count as zero."""
    values, vectors = np.linalg.eigh(covariance)
    values[values < values[-1] * len(values) * np.finfo(np.float64).eps] = 0
    root: Floats = (vectors * np.sqrt(values)) @ vectors.T
    return root
