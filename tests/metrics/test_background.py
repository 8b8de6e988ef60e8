from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from retouch.errors import WeightsError
from retouch.metrics.background import BackgroundL1, BackgroundLpips
from retouch.plugins import Metric, column_types
from retouch.schema import Batch, Pixels

from tests.helpers.tiny_clip import write_own_layout

SIZE = 32


@pytest.fixture(scope="module")
def perceptual(tmp_path_factory: pytest.TempPathFactory) -> BackgroundLpips:
    path, _ = write_own_layout(tmp_path_factory.mktemp("clip"), "resnet")
    return BackgroundLpips.load({"clip": path}, "cpu")


def make_batch(count: int = 3) -> Batch:
    image = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    mask = np.zeros((count, SIZE, SIZE), dtype=bool)
    mask[:, 8:20, 4:28] = True
    return Batch(image, mask, ["cat"] * count, seed=list(range(count)))


def values(metric: BackgroundL1 | BackgroundLpips, batch: Batch, edited: Pixels) -> list[float | None]:
    name = next(iter(metric.columns))
    return [score[name] for score in metric.score_batch(batch, edited)]


def one(batch: Batch, i: int) -> Batch:
    return Batch(batch.image[i : i + 1], batch.mask[i : i + 1], batch.prompt[i : i + 1], batch.seed[i : i + 1])


def test_both_keep_the_contract_of_a_metric(perceptual: BackgroundLpips) -> None:
    for metric in (BackgroundL1.load({}, "cpu"), perceptual):
        assert isinstance(metric, Metric)
        score = metric.score_batch(make_batch(1), make_batch(1).image)[0]
        assert list(score) == list(column_types(metric.columns))


def test_l1_is_the_mean_of_what_changed_outside_in_grey_levels() -> None:
    batch = make_batch(1)
    edited = batch.image.copy()
    source = batch.image[0, 0, 0].astype(int)
    edited[0, 0, 0] = 255 - batch.image[0, 0, 0]  # up and down: uint8 must not wrap
    outside = SIZE * SIZE - 12 * 24
    expected = np.abs(255 - 2 * source).sum() / (3 * outside)
    assert values(BackgroundL1(), batch, edited) == [pytest.approx(expected)]


def test_an_image_against_its_negative_is_as_far_as_l1_goes() -> None:
    batch = make_batch(1)
    black = replace(batch, image=np.zeros_like(batch.image))
    assert values(BackgroundL1(), black, np.full_like(batch.image, 255)) == [255.0]


def test_what_happens_inside_the_mask_does_not_count(perceptual: BackgroundLpips) -> None:
    batch = make_batch()
    edited = np.where(batch.mask[..., None], 255 - batch.image, batch.image)
    assert values(BackgroundL1(), batch, edited) == [0.0] * 3
    assert values(perceptual, batch, edited) == [0.0] * 3


def test_a_larger_change_outside_is_a_larger_distance(perceptual: BackgroundLpips) -> None:
    batch = make_batch(1)
    changed = [np.clip(batch.image.astype(int) + step, 0, 255).astype(np.uint8) for step in (4, 60)]
    for metric in (BackgroundL1(), perceptual):
        small, large = (values(metric, batch, edited)[0] for edited in changed)
        assert small is not None
        assert large is not None
        assert 0 < small < large


def test_there_is_no_score_where_the_mask_is_everything(perceptual: BackgroundLpips) -> None:
    batch = replace(make_batch(), mask=np.ones((3, SIZE, SIZE), dtype=bool))
    assert values(BackgroundL1(), batch, 255 - batch.image) == [None] * 3
    assert values(perceptual, batch, 255 - batch.image) == [None] * 3


def test_a_score_does_not_depend_on_its_batch_mates(perceptual: BackgroundLpips) -> None:
    batch = make_batch()
    edited = np.random.default_rng(1).integers(0, 256, batch.image.shape, dtype=np.uint8)
    for metric in (BackgroundL1(), perceptual):
        together = values(metric, batch, edited)
        assert together == [values(metric, one(batch, i), edited[i : i + 1])[0] for i in range(3)]
        assert len(set(together)) == 3


def test_lpips_comes_before_clip_and_the_row_says_which_it_was(tmp_path: Path, perceptual: BackgroundLpips) -> None:
    torch.manual_seed(0)
    features = torchvision.models.alexnet().features.state_dict()
    torch.save({f"features.{name}": value for name, value in features.items()}, tmp_path / "alex.pth")
    batch = make_batch(1)
    weights = {"lpips": str(tmp_path / "alex.pth"), "clip": "never opened"}
    by_alex = BackgroundLpips.load(weights, "cpu", net="alex").score_batch(batch, 255 - batch.image)[0]
    by_clip = perceptual.score_batch(batch, 255 - batch.image)[0]
    assert (by_alex["background_lpips_by"], by_clip["background_lpips_by"]) == ("alex", "clip")
    assert 0 < by_alex["background_lpips"] != by_clip["background_lpips"]


def test_without_either_network_it_says_what_it_needs() -> None:
    with pytest.raises(WeightsError, match="'lpips' \\(a VGG16\\) or 'clip'"):
        BackgroundLpips.load({"unet": "unet.safetensors"}, "cpu")


def test_arrays_that_may_not_be_written_to_are_scored_as_well(perceptual: BackgroundLpips) -> None:
    batch = make_batch(1)
    edited = 255 - batch.image
    expected = values(perceptual, batch, edited)
    for array in (batch.image, batch.mask, edited):
        array.flags.writeable = False  # as Ray hands them out
    assert values(perceptual, batch, edited) == expected
