from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.metrics.background_ssim import BackgroundSsim
from retouch.plugins import Metric
from retouch.schema import Batch, Mask, Pixels
from skimage.metrics import structural_similarity


def pixels(seed: int, size: int = 40) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), dtype=np.uint8)


def hole(size: int = 40) -> Mask:
    mask = np.zeros((1, size, size), dtype=bool)
    mask[:, 12:25, 9:30] = True
    return mask


def score(image: Pixels, mask: Mask, edited: Pixels) -> float | None:
    metric = BackgroundSsim.load({}, "cpu")
    assert isinstance(metric, Metric)
    (found,) = metric.score_batch(Batch(image, mask, [""], seed=[0]), edited)
    assert list(found) == ["background_ssim"]
    return found["background_ssim"]  # type: ignore[no-any-return]


@given(st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_whatever_happens_in_the_mask_an_equal_background_scores_1(seed: int) -> None:
    edited = np.where(hole()[..., None], pixels(seed + 1), pixels(seed))
    assert score(pixels(seed), hole(), edited) == pytest.approx(1.0)


def test_a_changed_background_scores_less_the_more_it_changed() -> None:
    image, noise = pixels(0), np.random.default_rng(1).integers(-1, 2, (1, 40, 40, 3))
    near, far = (score(image, hole(), np.clip(image + step * noise, 0, 255).astype(np.uint8)) for step in (5, 60))
    assert near is not None
    assert far is not None
    assert -1 <= far < near < 1


def test_without_a_mask_it_is_scikit_images_of_the_whole() -> None:
    image, edited = pixels(0), pixels(1)
    expected = structural_similarity(
        image[0], edited[0], gaussian_weights=True, use_sample_covariance=False, data_range=255, channel_axis=-1
    )
    assert score(image, np.zeros((1, 40, 40), dtype=bool), edited) == pytest.approx(expected, abs=1e-9)


def test_there_is_no_score_where_the_mask_is_everything() -> None:
    assert score(pixels(0), np.ones((1, 40, 40), dtype=bool), pixels(1)) is None
