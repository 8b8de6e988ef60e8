from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.errors import WeightsError
from retouch.metrics.background import BackgroundL1, BackgroundLpips
from retouch.metrics.source_distance import BackgroundSsim, SourceL1, SourceLpips, SourceSsim
from retouch.plugins import Metric, column_types
from retouch.schema import Batch, Pixels
from skimage.metrics import structural_similarity

from tests.helpers.tiny_clip import write_own_layout

SIZE = 32


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_own_layout(tmp_path_factory.mktemp("clip"), "resnet")[0]


@pytest.fixture(scope="module")
def perceptual(clip_file: str) -> SourceLpips:
    return SourceLpips.load({"clip": clip_file}, "cpu")


def pixels(seed: int, count: int = 3, size: int = SIZE) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def whole(image: Pixels) -> Batch:
    return Batch(image, np.ones(image.shape[:3], dtype=bool), ["cat"] * len(image), seed=list(range(len(image))))


def masked(image: Pixels) -> Batch:
    batch = whole(image)
    batch.mask[:, :8], batch.mask[:, 20:], batch.mask[:, :, :4], batch.mask[:, :, 28:] = False, False, False, False
    return batch


def values(metric: Any, batch: Batch, edited: Pixels) -> list[float | None]:
    name = next(iter(metric.columns))
    return [score[name] for score in metric.score_batch(batch, edited)]


def all_three(perceptual: SourceLpips) -> list[Any]:
    return [SourceL1.load({}, "cpu"), SourceSsim.load({}, "cpu"), perceptual]


def test_each_keeps_the_contract_of_a_metric(perceptual: SourceLpips) -> None:
    for metric in all_three(perceptual):
        assert isinstance(metric, Metric)
        assert list(metric.score_batch(whole(pixels(0)), pixels(1))[0]) == list(column_types(metric.columns))


def test_equal_images_are_at_no_distance(perceptual: SourceLpips) -> None:
    l1, ssim, lpips = (values(metric, masked(pixels(0)), pixels(0)) for metric in all_three(perceptual))
    assert (l1, lpips) == ([0.0] * 3, [0.0] * 3)
    assert ssim == [pytest.approx(1.0)] * 3


def test_what_happens_outside_the_mask_does_not_count(perceptual: SourceLpips) -> None:
    batch = masked(pixels(0))
    edited = np.where(batch.mask[..., None], batch.image, 255 - batch.image)
    assert values(SourceL1(), batch, edited) == [0.0] * 3
    assert values(perceptual, batch, edited) == [0.0] * 3
    # A window at the mask's rim sees 5 px beyond it: a change further away is none of its business.
    far = batch.image.copy()
    far[:, :3] = far[:, 26:] = 255 - far[:, 26:28].mean().astype(np.uint8)
    assert values(SourceSsim(), batch, far) == [pytest.approx(1.0)] * 3


def test_l1_is_the_mean_change_inside_in_grey_levels() -> None:
    batch = masked(pixels(0, 1))
    edited = np.where(batch.mask[..., None], 255 - batch.image, 0).astype(np.uint8)
    expected = np.abs(255 - 2 * batch.image[batch.mask].astype(int)).mean()
    assert values(SourceL1(), batch, edited) == [pytest.approx(expected)]


def test_inside_and_outside_together_are_the_whole_change() -> None:
    batch, edited = masked(pixels(0, 1)), pixels(1, 1)
    inside, outside = values(SourceL1(), batch, edited)[0], values(BackgroundL1(), batch, edited)[0]
    everything = values(SourceL1(), whole(batch.image), edited)[0]
    assert inside is not None
    assert outside is not None
    share = batch.mask.mean()
    assert everything == pytest.approx(share * inside + (1 - share) * outside)


@pytest.mark.parametrize("size", [11, 12, 32])
def test_ssim_of_whole_images_is_that_of_wang_and_others(size: int) -> None:
    a = pixels(0, 1, size)
    b = np.clip(a.astype(int) + np.random.default_rng(2).integers(-40, 41, a.shape), 0, 255).astype(np.uint8)
    expected = structural_similarity(
        a[0], b[0], gaussian_weights=True, use_sample_covariance=False, data_range=255, channel_axis=-1
    )
    assert values(SourceSsim(), whole(a), b) == [pytest.approx(expected, abs=1e-9)]
    assert 0 < expected < 1


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 100))
@settings(max_examples=40, deadline=None)
def test_images_of_any_size_have_a_similarity_between_minus_one_and_one(height: int, width: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 1, height, width, 3), dtype=np.uint8)
    (score,) = values(SourceSsim(), whole(a), b)
    assert score is not None
    assert -1 <= score < 1 or np.array_equal(a, b)
    assert values(SourceSsim(), whole(a), a) == [pytest.approx(1.0)]


def test_a_larger_change_is_a_larger_distance(perceptual: SourceLpips) -> None:
    batch = masked(pixels(0, 1))
    noise = np.random.default_rng(1).integers(-1, 2, batch.image.shape)
    near, far = (np.clip(batch.image + step * noise, 0, 255).astype(np.uint8) for step in (4, 60))
    for metric, sign in zip(all_three(perceptual), (1, -1, 1), strict=True):
        small, large = values(metric, batch, near)[0], values(metric, batch, far)[0]
        assert small is not None
        assert large is not None
        assert sign * small < sign * large


def test_there_is_no_score_where_the_mask_has_no_pixel(perceptual: SourceLpips) -> None:
    batch = replace(whole(pixels(0)), mask=np.zeros((3, SIZE, SIZE), dtype=bool))
    for metric in all_three(perceptual):
        assert values(metric, batch, pixels(1)) == [None] * 3


def test_a_score_does_not_depend_on_its_batch_mates(perceptual: SourceLpips) -> None:
    batch, edited = masked(pixels(0)), pixels(1)
    for metric in all_three(perceptual):
        together = values(metric, batch, edited)
        assert together == [values(metric, masked(batch.image[i : i + 1]), edited[i : i + 1])[0] for i in range(3)]
        assert len(set(together)) == 3


def test_lpips_inside_is_lpips_outside_of_the_other_mask_and_the_row_says_by_what(
    clip_file: str, perceptual: SourceLpips
) -> None:
    batch, edited = masked(pixels(0)), pixels(1)
    background = BackgroundLpips.load({"clip": clip_file}, "cpu")
    assert values(perceptual, batch, edited) == values(background, replace(batch, mask=~batch.mask), edited)
    assert {score["source_lpips_by"] for score in perceptual.score_batch(batch, edited)} == {"clip"}


def test_without_either_network_it_says_what_it_needs_under_its_own_name() -> None:
    with pytest.raises(WeightsError, match="source_lpips needs weights of role 'lpips' \\(a VGG16\\) or 'clip'"):
        SourceLpips.load({"unet": "unet.safetensors"}, "cpu")


def test_arrays_that_may_not_be_written_to_are_scored_as_well(perceptual: SourceLpips) -> None:
    batch, edited = masked(pixels(0, 1)), pixels(1, 1)
    expected = [values(metric, batch, edited) for metric in all_three(perceptual)]
    for array in (batch.image, batch.mask, edited):
        array.flags.writeable = False  # as Ray hands them out
    assert [values(metric, batch, edited) for metric in all_three(perceptual)] == expected


def hole(size: int = 40) -> Batch:
    """Image 0 with a box to edit."""
    batch = whole(pixels(0, 1, size))
    batch.mask[:] = False
    batch.mask[:, 12:25, 9:30] = True
    return batch


def test_the_backgrounds_similarity_keeps_the_contract_of_a_metric() -> None:
    metric = BackgroundSsim.load({}, "cpu")
    assert isinstance(metric, Metric)
    assert list(metric.score_batch(hole(), pixels(1, 1, 40))[0]) == list(metric.columns) == ["background_ssim"]


@given(st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_whatever_happens_in_the_mask_an_equal_background_scores_1(seed: int) -> None:
    batch = replace(hole(), image=pixels(seed, 1, 40))
    edited = np.where(batch.mask[..., None], pixels(seed + 1, 1, 40), batch.image)
    assert values(BackgroundSsim(), batch, edited) == [pytest.approx(1.0)]


def test_a_changed_background_scores_less_the_more_it_changed() -> None:
    batch, noise = hole(), np.random.default_rng(1).integers(-1, 2, (1, 40, 40, 3))
    changed = (np.clip(batch.image + step * noise, 0, 255).astype(np.uint8) for step in (5, 60))
    near, far = (values(BackgroundSsim(), batch, edited)[0] for edited in changed)
    assert near is not None
    assert far is not None
    assert -1 <= far < near < 1


def test_without_a_mask_the_backgrounds_similarity_is_scikit_images_of_the_whole() -> None:
    batch, edited = hole(), pixels(1, 1, 40)
    expected = structural_similarity(
        batch.image[0], edited[0], gaussian_weights=True, use_sample_covariance=False, data_range=255, channel_axis=-1
    )
    nowhere = replace(batch, mask=np.zeros_like(batch.mask))
    assert values(BackgroundSsim(), nowhere, edited) == [pytest.approx(expected, abs=1e-9)]


def test_there_is_no_background_to_score_where_the_mask_is_everything() -> None:
    batch = whole(pixels(0, 1, 40))
    assert values(BackgroundSsim(), batch, pixels(1, 1, 40)) == [None]
