from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retouch.errors import WeightsError
from retouch.metrics import segmentation
from retouch.metrics.segmentation import SegmentationConsistency, agreement, mean_iou
from retouch.models import deeplab
from retouch.plugins import Metric, column_types
from retouch.schema import Batch, Pixels
from torch import Tensor

from tests.models.test_deeplab import write_random

SIZE = 64


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> SegmentationConsistency:
    path = write_random(tmp_path_factory.mktemp("deeplab") / "deeplab.pth")
    return SegmentationConsistency.load({"segmentation": path}, "cpu", image_size=SIZE)


def pixels(seed: int, count: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def scores(metric: SegmentationConsistency, image: Pixels, edited: Pixels) -> list[tuple[float, float]]:
    mask = np.ones(image.shape[:3], dtype=bool)
    batch = Batch(image, mask, [""] * len(image), seed=list(range(len(image))))
    found = metric.score_batch(batch, edited)
    return [(score["segmentation_agreement"], score["segmentation_miou"]) for score in found]


def maps(seed: int, labels: int) -> tuple[Tensor, Tensor]:
    a, b = torch.randint(labels, (2, 6, 7), generator=torch.Generator().manual_seed(seed))
    return a, b


def test_it_keeps_the_contract_of_a_metric(metric: SegmentationConsistency) -> None:
    assert isinstance(metric, Metric)
    batch = Batch(pixels(0, 1), np.ones((1, SIZE, SIZE), dtype=bool), [""], seed=[0])
    assert list(metric.score_batch(batch, pixels(1, 1))[0]) == list(column_types(metric.columns))


def test_an_image_that_was_not_edited_agrees_everywhere(metric: SegmentationConsistency) -> None:
    assert scores(metric, pixels(0), pixels(0)) == [(1.0, 1.0)] * 3


def test_the_numbers_are_those_of_the_two_label_maps(metric: SegmentationConsistency) -> None:
    image, edited = pixels(0, 1), pixels(1, 1)
    a, b = (metric.segmenter.labels(torch.from_numpy(x).permute(0, 3, 1, 2) / 255)[0] for x in (image, edited))
    assert scores(metric, image, edited) == [(agreement(a, b), mean_iou(a, b))]
    assert 0 < agreement(a, b) < 1


def test_the_size_is_the_networks_own() -> None:
    assert segmentation.IMAGE_SIZE == deeplab.IMAGE_SIZE


def test_counted_by_hand() -> None:
    a = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 2]])
    b = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1]])
    assert agreement(a, b) == 6 / 8
    assert mean_iou(a, b) == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)  # of the classes 0, 1 and 2


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_order_does_not_matter_and_both_lie_between_0_and_1(seed: int, labels: int) -> None:
    a, b = maps(seed, labels)
    for score in (agreement, mean_iou):
        assert 0 <= score(a, b) <= 1
        assert score(a, b) == score(b, a)
        assert score(a, a) == 1
    assert (agreement(a, b) == 1) == (mean_iou(a, b) == 1) == torch.equal(a, b)


@given(st.integers(0, 10_000))
def test_the_names_of_the_classes_do_not_matter(seed: int) -> None:
    a, b = maps(seed, 4)
    renamed = torch.tensor([20, 3, 0, 7])
    assert mean_iou(renamed[a], renamed[b]) == pytest.approx(mean_iou(a, b))


def test_a_score_does_not_depend_on_its_batch_mates(metric: SegmentationConsistency) -> None:
    image, edited = pixels(0), pixels(1)
    together = scores(metric, image, edited)
    assert together == [scores(metric, image[i : i + 1], edited[i : i + 1])[0] for i in range(3)]
    assert len(set(together)) == 3


def test_arrays_that_may_not_be_written_to_are_scored_as_well(metric: SegmentationConsistency) -> None:
    image, edited = pixels(0, 1), pixels(1, 1)
    expected = scores(metric, image, edited)
    image.flags.writeable = edited.flags.writeable = False  # as Ray hands them out
    assert scores(metric, image, edited) == expected


def test_without_the_network_it_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="role 'segmentation' \\(torchvision's deeplabv3_resnet50\\)"):
        SegmentationConsistency.load({"clip": "clip.safetensors"}, "cpu")
    with pytest.raises(WeightsError, match="no such file"):
        SegmentationConsistency.load({"segmentation": str(tmp_path / "none.pth")}, "cpu")
