from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.errors import ConfigError, WeightsError
from retouch.metrics.quality_score import QualityScore, fitted, log_likelihood
from retouch.plugins import SetMetric
from retouch.schema import Pixels
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from tests.helpers.tiny_clip import write_own_layout


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> QualityScore:
    folder = tmp_path_factory.mktemp("clip")
    return QualityScore.load({"clip": write_own_layout(folder)[0]}, "cpu", components=3)


def cloud(seed: int, count: int, dim: int = 6, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = 4 * rng.standard_normal((4, dim))
    return (centres[rng.integers(4, size=count)] + rng.standard_normal((count, dim)) + offset).astype(np.float32)


def pictures(seed: int, count: int) -> list[Pixels]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) // (1 + i % 4) for i in range(count)]


def test_it_keeps_the_contract_of_a_set_metric(metric: QualityScore) -> None:
    assert isinstance(metric, SetMetric)
    assert "3 full covariances" in metric.id["model"]
    features = np.stack([metric.features(image) for image in pictures(0, 12)])
    values = metric.reduce(metric.state(features), metric.fit(metric.state(features)))
    assert list(values) == ["quality_score", "mean_log_likelihood"]


@pytest.mark.parametrize("dim", [1, 6, 24])
def test_log_likelihoods_are_those_of_the_mixture_of_its_gaussians(dim: int) -> None:
    real, fake = cloud(0, 300, dim).astype(np.float64), cloud(1, 50, dim, offset=3).astype(np.float64)
    mixture = GaussianMixture(5, covariance_type="full", random_state=0).fit(real)
    parts = [
        np.log(weight) + multivariate_normal(mean, covariance).logpdf(fake)
        for weight, mean, covariance in zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
    ]
    np.testing.assert_allclose(log_likelihood(fake, fitted(real, 5)), logsumexp(parts, axis=0), rtol=1e-6)


def test_a_mixture_fitted_elsewhere_scores_as_scikit_learn_does() -> None:
    oracle = GaussianMixture(4, covariance_type="full", random_state=7).fit(cloud(0, 200).astype(np.float64))
    named = {name: getattr(oracle, f"{name}_") for name in ("weights", "means", "precisions_cholesky")}
    far = cloud(1, 20, offset=50).astype(np.float64)  # where densities themselves would underflow
    np.testing.assert_allclose(log_likelihood(far, named), oracle.score_samples(far), rtol=1e-6)


def test_fitting_again_gives_the_same_mixture() -> None:
    first, second = (fitted(cloud(0, 120), 4) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first["converged"] == [1]


@given(st.integers(0, 100), st.floats(-30, 30), st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_a_score_lies_between_0_and_100(metric: QualityScore, seed: int, offset: float, scale: float) -> None:
    mixture = fitted(cloud(0, 60), 3)
    score = metric.reduce({"features": cloud(seed, 10, offset=offset) * np.float32(scale)}, mixture)["quality_score"]
    assert 0 <= score <= 100


def test_the_score_is_the_clipped_log_likelihood_over_300() -> None:
    tight = np.diag([1e60, 1e60, 1.0])  # log-likelihood of the mean: 2 * 138.2 - 2.8 = 273.5
    mixture = {"weights": np.ones(1), "means": np.zeros((1, 3)), "precisions_cholesky": tight[None]}
    features = np.zeros((4, 3), np.float32)
    features[1:, 2] = [10, 20, 100]  # less 50, less 200, and far below zero
    best = 2 * 60 * np.log(10) - 1.5 * np.log(2 * np.pi)
    expected = np.clip(np.array([best, best - 50, best - 200, -1]) / 300, 0, 1).mean() * 100
    metric = QualityScore.__new__(QualityScore)
    assert metric.reduce({"features": features}, mixture)["quality_score"] == pytest.approx(expected)


def test_images_like_the_reference_score_higher_than_others() -> None:
    mixture = fitted(cloud(0, 400), 4)
    assert log_likelihood(cloud(0, 50), mixture).mean() > log_likelihood(cloud(0, 50, offset=5), mixture).mean() + 10


def test_features_of_shards_merge_to_those_of_the_whole(metric: QualityScore) -> None:
    x = cloud(0, 30)
    merged = metric.merge([metric.state(x[:4]), metric.state(x[4:])])
    assert np.array_equal(merged["features"], x)


def test_what_cannot_be_fitted_or_scored_is_said_in_one_line(metric: QualityScore) -> None:
    with pytest.raises(ConfigError, match="a mixture of 20 needs as many images, the reference has 5"):
        fitted(cloud(0, 5))
    with pytest.raises(ConfigError, match="give the job a reference"):
        metric.reduce({"features": cloud(0, 5)}, None)
    with pytest.raises(ConfigError, match="is no mixture: it lacks means, precisions_cholesky, weights"):
        metric.reduce({"features": cloud(0, 5)}, {"mean": np.zeros(3)})
    with pytest.raises(ConfigError, match="is of 6 features, these images have 7"):
        metric.reduce({"features": cloud(0, 5, 7)}, fitted(cloud(0, 50), 3))
    with pytest.raises(WeightsError, match="needs weights of role 'clip'"):
        QualityScore.load({}, "cpu")
