from __future__ import annotations

from pathlib import Path

import pytest
import torch
from retouch.errors import WeightsError
from retouch.models.deeplab import CLASSES, IMAGE_SIZE, Segmenter, load_segmenter
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights, deeplabv3_resnet50

PRESET = DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1


def layout(classes: int) -> dict[str, Tensor]:
    """A file's tensors, each one number seen everywhere, so that the file is small."""
    with torch.device("meta"):
        state = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True).state_dict()
    return {
        name: torch.tensor(index if value.dtype == torch.int64 else index / 1000).expand(value.shape)
        for index, (name, value) in enumerate(state.items())
    }


def write_random(path: Path, classes: int = 3) -> str:
    """Random weights in the published layout, whose output follows the image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
    state = {name: v.half() if v.is_floating_point() else v for name, v in model.state_dict().items()}
    torch.save(state, path)
    return str(path)


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    return load_segmenter(write_random(tmp_path_factory.mktemp("deeplab") / "deeplab.pth"), image_size=64)


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("classes", [3, CLASSES])
def test_the_published_layout_loads_tensor_by_tensor_whatever_its_classes(tmp_path: Path, classes: int) -> None:
    state = layout(classes)
    torch.save(state, tmp_path / "deeplab.pth")
    segmenter = load_segmenter(str(tmp_path / "deeplab.pth"))
    assert all(torch.equal(value, state[name]) for name, value in segmenter.model.state_dict().items())
    assert segmenter.image_size == IMAGE_SIZE
    assert not segmenter.model.training


def test_size_and_classes_are_those_that_torchvision_published_the_weights_with() -> None:
    assert PRESET.transforms().resize_size == [IMAGE_SIZE]
    assert len(PRESET.meta["categories"]) == CLASSES


@torch.no_grad()
def test_labels_are_the_likeliest_classes_of_the_normalised_image(segmenter: Segmenter) -> None:
    x = images()
    preset = PRESET.transforms()
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (preset.mean, preset.std))
    expected = segmenter.model((x - mean) / std)["out"].argmax(1)
    assert torch.equal(segmenter.labels(x), expected)
    assert expected.unique().numel() > 1


@pytest.mark.parametrize(("size", "expected"), [((48, 96), (64, 128)), ((128, 128), (64, 64)), ((90, 60), (96, 64))])
def test_the_shorter_side_is_brought_to_the_networks_size(
    segmenter: Segmenter, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    x = images(*size)
    labels = segmenter.labels(x)
    assert labels.shape == (2, *expected)
    assert torch.equal(labels, segmenter.labels(F.interpolate(x, expected, mode="bilinear", antialias=True)))


def test_a_file_that_is_not_it_is_one_clear_line(tmp_path: Path) -> None:
    whole = layout(CLASSES)
    without_head = {name: value for name, value in whole.items() if not name.startswith("aux_classifier.")}
    other = {name.replace("backbone.", "trunk."): value for name, value in whole.items()}
    for state, words in (
        (without_head, "first: aux_classifier.0.weight"),
        (other, "missing"),
        ({"a": whole["classifier.4.bias"]}, "missing"),
    ):
        torch.save(state, tmp_path / "deeplab.pth")
        with pytest.raises(WeightsError, match="is not torchvision's deeplabv3_resnet50") as error:
            load_segmenter(str(tmp_path / "deeplab.pth"))
        assert words in str(error.value)
        assert "\n" not in str(error.value)
