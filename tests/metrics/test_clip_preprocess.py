from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from retouch.errors import EditError
from retouch.metrics.clip_preprocess import clip_features, clip_image
from retouch.models.clip import Clip, load_clip
from retouch.schema import Pixels

from tests.helpers.tiny_clip import write_own_layout


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load_clip(write_own_layout(tmp_path_factory.mktemp("clip"))[0])


def pixels(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def levels(clip: Clip, image: Pixels, how: str) -> np.ndarray:
    return (clip_image(image, clip, how)[0].permute(1, 2, 0) * 255).round().numpy().astype(int)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(90, 64), (33, 47), (32, 100), (20, 9)])
def test_clip_sees_what_its_own_transform_makes_of_a_file(clip: Clip, size: tuple[int, int]) -> None:
    image, side = pixels(*size), clip.image_size
    height, width = size
    shorter = min(size)
    whole = Image.fromarray(image).resize((side * width // shorter, side * height // shorter), Image.Resampling.BICUBIC)
    left, top = round((whole.width - side) / 2), round((whole.height - side) / 2)
    expected = np.asarray(whole.crop((left, top, left + side, top + side))).astype(int)
    assert np.abs(levels(clip, image, "centre") - expected).max() <= 1  # of 255
    squashed = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(levels(clip, image, "squash") - squashed).max() <= 1


def test_an_image_of_clips_own_size_is_not_touched(clip: Clip) -> None:
    image = pixels(clip.image_size, clip.image_size)
    assert np.array_equal(levels(clip, image, "centre"), image)
    assert np.array_equal(levels(clip, image, "squash"), image)


def test_features_are_clips_own_unnormalised(clip: Clip) -> None:
    image = pixels(40, 60)
    features = clip_features(clip, image)
    assert features.shape == (16,)
    assert np.array_equal(features, clip.encode_image(clip_image(image, clip, "centre"))[0].numpy())
    assert abs(np.linalg.norm(features) - 1) > 1e-3


def test_features_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    broken = load_clip(write_own_layout(tmp_path)[0])
    with torch.no_grad():
        next(broken.model.visual.parameters()).fill_(torch.nan)
    with pytest.raises(EditError, match="not finite"):
        clip_features(broken, pixels(32, 32))
