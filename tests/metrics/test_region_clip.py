from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from retouch.errors import WeightsError
from retouch.metrics.clip_preprocess import clip_image
from retouch.metrics.region_clip import RegionClip, bounding_box, published_box, published_crop
from retouch.models.clip import Clip
from retouch.plugins import Metric, column_types
from retouch.schema import Batch, Pixels
from torch.nn.functional import cosine_similarity

from tests.helpers.golden_set import assert_within, golden
from tests.helpers.tiny_clip import write_own_layout

GOLDEN = "pbe_region_clip.safetensors"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_own_layout(tmp_path_factory.mktemp("clip"))[0]


@pytest.fixture(scope="module")
def metric(clip_file: str) -> RegionClip:
    return RegionClip.load({"clip": clip_file}, "cpu")


def pixels(seed: int, height: int = 40, width: int = 48, count: int = 3) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def batch_of(exemplar: Pixels | None, seed: int = 0) -> Batch:
    image = pixels(seed)
    mask = np.zeros(image.shape[:3], dtype=bool)
    mask[:, 5:25, 10:30] = True
    return Batch(image, mask, [""] * 3, seed=[1, 2, 3], exemplar=exemplar)


def scores(metric: Any, batch: Batch, edited: Pixels) -> list[float | None]:
    return [score["region_clip"] for score in metric.score_batch(batch, edited)]


def golden_clip(size: int) -> Clip:
    return Clip(torch.nn.Linear(1, 1), None, size, MEAN, STD)  # type: ignore[arg-type]


def cases() -> list[int]:
    return sorted(
        {int(name.split(".")[1]) for name in golden(GOLDEN)[0] if name.startswith("out.") and name[4].isdigit()}
    )


@pytest.mark.parametrize("case", cases())
def test_the_published_box_crop_and_reference_are_reproduced(case: int) -> None:
    tensors, readme = golden(GOLDEN)
    clip, limits = golden_clip(readme["config"]["clip_size"]), readme["tolerance"]
    box = published_box(tensors[f"in.mask{case}_u8"].numpy() >= 128)
    assert box is not None
    edges = torch.tensor([box[0].start, box[0].stop, box[1].start, box[1].stop])
    assert_within(edges, tensors[f"out.{case}.box_rows_cols"], limits["boxes"])
    crop = published_crop(tensors[f"in.result{case}_u8"].numpy(), box, clip)[0, :, ::7, ::7]
    assert_within(crop, tensors[f"out.{case}.crop224_antialias_false_stride7"], limits["crop"], "crop")
    seen = clip.normalise(clip_image(tensors[f"in.ref{case}_u8"].numpy(), clip, "squash"))[0, :, ::7, ::7]
    assert_within(seen, tensors[f"out.{case}.ref224_stride7"], limits["ref"], "reference")


def test_the_published_similarity_is_reproduced_from_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, readme = golden(GOLDEN)
    found = []
    for crop, reference in zip(tensors["in.result_feat"], tensors["in.ref_feat"], strict=True):
        clip = golden_clip(16)
        given = {False: crop[None], True: reference[None]}
        # Of the two images the crop alone is normalised already.
        monkeypatch.setattr(Clip, "encode_image", lambda _s, _x, normalise=True, given=given: given[normalise])
        found += scores(RegionClip(clip, parity=True), batch_of(pixels(5)), pixels(1))[:1]
    assert_within(torch.tensor(found), tensors["out.similarity"], readme["tolerance"]["similarity"])
    assert_within(torch.tensor(found).mean(), tensors["out.mean_score"], readme["tolerance"]["similarity"])


def test_it_keeps_the_contract_of_a_metric(metric: RegionClip) -> None:
    assert isinstance(metric, Metric)
    found = metric.score_batch(batch_of(pixels(2)), pixels(1))
    assert [list(score) for score in found] == [list(column_types(metric.columns))] * 3
    assert all(-100 <= score["region_clip"] < 100 for score in found)


def test_a_crop_that_is_the_exemplar_scores_100(metric: RegionClip) -> None:
    edited = pixels(1)
    assert scores(metric, batch_of(edited[:, 5:25, 10:30]), edited) == [pytest.approx(100, abs=1e-3)] * 3


def test_it_is_the_cosine_of_the_two_vectors(metric: RegionClip) -> None:
    edited, exemplar = pixels(1), pixels(2, 30, 20)
    a, b = (
        metric.clip.encode_image(clip_image(np.ascontiguousarray(x), metric.clip, "squash"))
        for x in (edited[0, 5:25, 10:30], exemplar[0])
    )
    assert scores(metric, batch_of(exemplar), edited)[0] == pytest.approx(100 * float(cosine_similarity(a, b)[0]))


def test_what_lies_outside_the_masks_box_does_not_count(metric: RegionClip) -> None:
    batch, edited = batch_of(pixels(2)), pixels(1)
    other = pixels(3)
    other[:, 5:25, 10:30] = edited[:, 5:25, 10:30]
    assert scores(metric, batch, other) == scores(metric, batch, edited)


def test_the_box_of_a_mask_of_any_shape_holds_it_and_the_published_one_need_not() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[3, 8], mask[9, 2], mask[12, 11] = True, True, True
    assert bounding_box(mask) == (slice(3, 13), slice(2, 12))
    assert published_box(mask) == (slice(3, 12), slice(8, 11))


def test_there_is_no_score_without_an_exemplar_or_a_region(clip_file: str, metric: RegionClip) -> None:
    parity = RegionClip.load({"clip": clip_file}, "cpu", parity=True)
    nothing = replace(batch_of(pixels(2)), mask=np.zeros((3, 40, 48), dtype=bool))
    line = replace(nothing, mask=nothing.mask.copy())
    line.mask[:, 4, 3:9] = True  # one row, which the published box loses
    for either in (metric, parity):
        assert scores(either, batch_of(None), pixels(1)) == [None] * 3
        assert scores(either, nothing, pixels(1)) == [None] * 3
    assert scores(parity, line, pixels(1)) == [None] * 3
    assert None not in scores(metric, line, pixels(1))


def test_a_score_does_not_depend_on_its_batch_mates(metric: RegionClip) -> None:
    batch, edited, exemplar = batch_of(pixels(2)), pixels(1), pixels(2)
    together = scores(metric, batch, edited)
    for i in range(3):
        alone = Batch(batch.image[i : i + 1], batch.mask[i : i + 1], [""], seed=[1], exemplar=exemplar[i : i + 1])
        assert scores(metric, alone, edited[i : i + 1]) == [together[i]]
    assert len(set(together)) == 3


def test_parity_differs_and_says_so_nowhere_but_in_the_options(clip_file: str, metric: RegionClip) -> None:
    parity = RegionClip.load({"clip": clip_file}, "cpu", parity=True)
    assert scores(parity, batch_of(pixels(2)), pixels(1)) != scores(metric, batch_of(pixels(2)), pixels(1))


def test_without_a_clip_it_says_so() -> None:
    with pytest.raises(WeightsError, match="region_clip needs weights of role 'clip'"):
        RegionClip.load({}, "cpu")


def test_arrays_that_may_not_be_written_to_are_scored_as_well(metric: RegionClip) -> None:
    batch, edited = batch_of(pixels(2)), pixels(1)
    expected = scores(metric, batch, edited)
    for array in (batch.image, batch.mask, batch.exemplar, edited):
        assert array is not None
        array.flags.writeable = False  # as Ray hands them out
    assert scores(metric, batch, edited) == expected
