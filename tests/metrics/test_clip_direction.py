from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from retouch.errors import ConfigError, WeightsError
from retouch.metrics.clip_direction import DirectionalClip
from retouch.models.clip import Clip
from retouch.models.prompt_templates import fill, imagenet_templates
from retouch.plugins import Metric, column_types
from retouch.schema import Batch, Pixels
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from tests.helpers.tiny_clip import write_own_layout

SIZE = 32  # the tiny CLIP's own, so that nothing is resized
PROMPTS = ["a red cat", "cat", "a dog"]
SOURCES = ["a cat", "a dog", "red"]


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_own_layout(tmp_path_factory.mktemp("clip"))[0]


@pytest.fixture(scope="module")
def metric(clip_file: str) -> DirectionalClip:
    return DirectionalClip.load({"clip": clip_file}, "cpu")


def pixels(seed: int, count: int = 3, height: int = SIZE, width: int = SIZE) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def batch_of(image: Pixels, prompts: list[str], sources: list[str] | None) -> Batch:
    mask = np.ones(image.shape[:3], dtype=bool)
    return Batch(image, mask, prompts, seed=list(range(len(image))), source_prompt=sources)


def unit(clip: Clip, image: Pixels) -> Tensor:
    return F.normalize(clip.encode_image(torch.from_numpy(image).permute(2, 0, 1)[None] / 255), dim=-1)


def values(metric: DirectionalClip, batch: Batch, edited: Pixels, name: str = "clip_direction") -> list[float | None]:
    return [score[name] for score in metric.score_batch(batch, edited)]


def test_it_keeps_the_contract_of_a_metric(metric: DirectionalClip) -> None:
    assert isinstance(metric, Metric)
    scores = metric.score_batch(batch_of(pixels(0), PROMPTS, SOURCES), pixels(1))
    assert [list(score) for score in scores] == [list(column_types(metric.columns))] * 3


@torch.no_grad()
def test_the_direction_is_the_cosine_of_what_images_and_texts_changed_by(metric: DirectionalClip) -> None:
    before, after = pixels(0, 1), pixels(1, 1)
    clip = metric.clip
    way = unit(clip, after[0]) - unit(clip, before[0])
    source, target = (F.normalize(clip.encode_text([text]), dim=-1) for text in ("a cat", "a red cat"))
    cosine = F.cosine_similarity(way, target - source).item()
    batch = batch_of(before, ["a red cat"], ["a cat"])
    assert values(metric, batch, after) == [pytest.approx(cosine, abs=1e-5)]
    likeness = 100 * F.cosine_similarity(unit(clip, after[0]), target).item()
    assert values(metric, batch, after, "clip_target") == [pytest.approx(likeness, abs=1e-3)]


def test_going_back_is_the_opposite_of_going_there(metric: DirectionalClip) -> None:
    a, b = pixels(0), pixels(1)
    there = values(metric, batch_of(a, PROMPTS, SOURCES), b)
    back = values(metric, batch_of(b, PROMPTS, SOURCES), a)
    assert there == [pytest.approx(-value, abs=1e-5) for value in back if value is not None]
    assert all(value is not None and 1e-4 < abs(value) <= 1 for value in there)


def test_an_image_that_was_not_edited_went_nowhere(metric: DirectionalClip) -> None:
    assert values(metric, batch_of(pixels(0), PROMPTS, SOURCES), pixels(0)) == [0.0] * 3


def test_without_both_texts_there_is_no_direction_but_the_target_is_still_judged(metric: DirectionalClip) -> None:
    batch = batch_of(pixels(0), ["cat", " ", "cat"], ["", "cat", "cat"])
    assert values(metric, batch, pixels(1)) == [None] * 3  # the last has the same text twice
    targets = values(metric, batch, pixels(1), "clip_target")
    assert [target is None for target in targets] == [False, True, False]
    assert values(metric, replace(batch, source_prompt=None), pixels(1)) == [None] * 3


@torch.no_grad()
def test_imagenets_templates_average_the_texts_way_and_leave_the_target_alone(
    clip_file: str, metric: DirectionalClip
) -> None:
    averaged = DirectionalClip.load({"clip": clip_file}, "cpu", templates="imagenet")
    before, after = pixels(0, 1), pixels(1, 1)
    clip = metric.clip
    texts = [clip.encode_text(fill(imagenet_templates(), text), truncate=True) for text in ("cat", "dog")]
    source, target = (F.normalize(text, dim=-1) for text in texts)
    way = unit(clip, after[0]) - unit(clip, before[0])
    batch = batch_of(before, ["dog"], ["cat"])
    expected = F.cosine_similarity(way, (target - source).mean(0, keepdim=True)).item()
    assert values(averaged, batch, after) == [pytest.approx(expected, abs=1e-5)]
    assert values(averaged, batch, after) != values(metric, batch, after)
    assert values(averaged, batch, after, "clip_target") == values(metric, batch, after, "clip_target")


def test_a_score_depends_neither_on_its_batch_mates_nor_on_what_was_scored_before(metric: DirectionalClip) -> None:
    batch, edited = batch_of(pixels(0), PROMPTS, SOURCES), pixels(1)
    together = values(metric, batch, edited)
    alone = [
        values(metric, batch_of(batch.image[i : i + 1], [PROMPTS[i]], [SOURCES[i]]), edited[i : i + 1])[0]
        for i in (2, 0, 1)
    ]
    assert [alone[1], alone[2], alone[0]] == together
    assert len(set(together)) == 3


def test_images_of_any_size_are_seen_by_their_centre_square(metric: DirectionalClip) -> None:
    wide, after = pixels(0, 1, width=64), pixels(1, 1, width=64)
    repainted = after.copy()
    repainted[:, :, :16] = repainted[:, :, 48:] = 0
    batch = batch_of(wide, ["cat"], ["a dog"])
    assert values(metric, batch, after) == values(metric, batch, repainted)
    large = np.repeat(np.repeat(wide, 4, axis=1), 4, axis=2)
    assert values(metric, batch_of(large, ["cat"], ["a dog"]), large[:, ::-1].copy())[0] is not None


def test_a_text_longer_than_clip_reads_is_cut(metric: DirectionalClip) -> None:
    long = "cat " * 30
    assert values(metric, batch_of(pixels(0, 1), [long], ["a dog"]), pixels(1, 1))[0] is not None


def test_what_it_lacks_is_one_clear_line(clip_file: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="role 'clip'"):
        DirectionalClip.load({"unet": "unet.safetensors"}, "cpu")
    with pytest.raises(ConfigError, match="no templates 'all'; there are: none, imagenet"):
        DirectionalClip.load({"clip": clip_file}, "cpu", templates="all")
    with pytest.raises(WeightsError, match="no such file"):
        DirectionalClip.load({"clip": str(tmp_path / "clip.pt")}, "cpu")


def test_arrays_that_may_not_be_written_to_are_scored_as_well(metric: DirectionalClip) -> None:
    batch, edited = batch_of(pixels(0), PROMPTS, SOURCES), pixels(1)
    expected = values(metric, batch, edited)
    for array in (batch.image, edited):
        array.flags.writeable = False  # as Ray hands them out
    assert values(metric, batch, edited) == expected
