from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.errors import ConfigError
from retouch.metrics.frechet import Moments, frechet_distance, merged
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance


def cloud(seed: int, count: int, dim: int, offset: float = 0.0) -> np.ndarray:
    """Correlated features, as a network's are."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(dim) + offset


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return frechet_distance(Moments.of(a), Moments.of(b))


class Pooled(nn.Module):
    """Eight features of an image that torchmetrics can be given."""

    num_features = 8

    def forward(self, images: Tensor) -> Tensor:
        x = images.double() / 255
        return torch.cat([x.mean((2, 3)), x.std((2, 3)), x[:, :2, 0, 0]], dim=1)


@pytest.mark.parametrize("sizes", [(40, 30), (6, 5)])  # the second with fewer images than features
def test_it_is_the_distance_that_torchmetrics_computes_on_the_same_features(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    real, fake = (
        torch.tensor(rng.integers(0, high, (n, 3, 9, 7), dtype=np.uint8))
        for n, high in zip(sizes, (256, 150), strict=True)
    )
    oracle = FrechetInceptionDistance(feature=Pooled()).set_dtype(torch.float64)
    oracle.update(real, real=True)
    oracle.update(fake, real=False)
    ours = distance(Pooled()(fake).numpy(), Pooled()(real).numpy())
    # The oracle takes the root of a product of covariances; where these are singular it is off by its own rounding.
    assert ours == pytest.approx(float(oracle.compute()), rel=1e-4)


def test_of_gaussians_with_the_same_axes_it_is_what_the_formula_says() -> None:
    a, b = (
        Moments(11, mean, np.diag(10 * spread))
        for mean, spread in (
            (np.array([0.0, 1.0]), np.array([4.0, 9.0])),
            (np.array([3.0, 5.0]), np.array([1.0, 16.0])),
        )
    )
    assert frechet_distance(a, b) == pytest.approx(9 + 16 + (2 - 1) ** 2 + (3 - 4) ** 2)


@given(st.integers(0, 1000), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.sampled_from([0.0, 1e4]))
@settings(max_examples=60, deadline=None)
def test_merged_shards_are_the_whole_however_it_was_cut(seed: int, sizes: list[int], offset: float) -> None:
    x = cloud(seed, sum(sizes) + 1, 5, offset)
    parts = np.split(x, np.cumsum(sizes))  # the last one has one image
    together = Moments.from_state(merged([Moments.of(part).state() for part in reversed(parts)]))
    whole = Moments.of(x)
    assert together.count == whole.count
    np.testing.assert_allclose(together.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(together.scatter, whole.scatter, rtol=1e-8, atol=1e-8 * np.abs(whole.scatter).max())
    if len(x) > 5:
        other = Moments.of(cloud(seed + 1, 40, 5, offset))
        assert frechet_distance(together, other) == pytest.approx(frechet_distance(whole, other), rel=1e-8)


def test_moments_are_those_of_numpy() -> None:
    x = cloud(0, 50, 4)
    np.testing.assert_allclose(Moments.of(x).covariance, np.cov(x, rowvar=False), rtol=1e-12)


@pytest.mark.parametrize("count", [5, 200])
def test_a_set_is_at_no_distance_from_itself(count: int) -> None:
    x = cloud(0, count, 64)
    assert distance(x, x) < 1e-9 * np.trace(np.cov(x, rowvar=False))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_it_is_symmetric_and_grows_with_a_shift(seed: int) -> None:
    a, b = cloud(seed, 40, 6), cloud(seed + 1, 40, 6)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)
    assert distance(a, a + 2.0) == pytest.approx(4.0 * 6, rel=1e-6)


def test_a_large_common_offset_does_not_spoil_it() -> None:
    a, b = cloud(0, 300, 6), cloud(1, 300, 6)
    assert distance(a + 1e6, b + 1e6) == pytest.approx(distance(a, b), rel=1e-5)


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ConfigError, match="at least 2 images"):
        distance(cloud(0, 1, 3), cloud(1, 5, 3))
