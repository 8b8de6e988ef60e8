from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.errors import WeightsError
from retouch.metrics.clip_score import ClipScore, square_around
from retouch.plugins import Metric, column_types
from retouch.schema import Batch, Mask, Pixels

from tests.helpers.tiny_clip import write_own_layout

SIZE = 48
PROMPTS = ["a red cat", "cat", "a dog"]


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> ClipScore:
    path, _ = write_own_layout(tmp_path_factory.mktemp("clip"))
    return ClipScore.load({"clip": path}, "cpu")


def box(top: int, left: int, height: int, width: int) -> Mask:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def edited_images(count: int = 3) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def batch_of(masks: list[Mask], prompts: list[str]) -> Batch:
    image = np.zeros((len(masks), SIZE, SIZE, 3), dtype=np.uint8)
    return Batch(image, np.stack(masks), prompts, seed=list(range(len(masks))))


MASKS = [box(4, 6, 10, 20), box(30, 30, 18, 18), box(0, 0, 1, 1)]


def scores(metric: ClipScore, masks: list[Mask], prompts: list[str], edited: Pixels) -> list[float | None]:
    return [score["clip_score"] for score in metric.score_batch(batch_of(masks, prompts), edited)]


def test_it_keeps_the_contract_of_a_metric(metric: ClipScore) -> None:
    assert isinstance(metric, Metric)
    assert list(column_types(ClipScore.columns)) == ["clip_score"]


@torch.no_grad()
def test_a_score_is_a_hundred_times_the_cosine_of_prompt_and_region(metric: ClipScore) -> None:
    edited = edited_images(1)
    region = torch.from_numpy(edited[:, 10:42, 12:44]).permute(0, 3, 1, 2) / 255  # 32 px, CLIP's own size
    image, text = metric.clip.encode_image(region), metric.clip.encode_text(["a red cat"])
    cosine = torch.nn.functional.cosine_similarity(image, text).item()
    assert scores(metric, [box(10, 12, 32, 32)], ["a red cat"], edited) == [pytest.approx(100 * cosine, abs=1e-3)]


def test_a_score_does_not_depend_on_its_batch_mates(metric: ClipScore) -> None:
    edited = edited_images()
    together = scores(metric, MASKS, PROMPTS, edited)
    alone = [scores(metric, [MASKS[i]], [PROMPTS[i]], edited[i : i + 1])[0] for i in range(3)]
    assert together == alone
    assert len(set(together)) == 3


def test_only_the_square_around_the_mask_is_looked_at(metric: ClipScore) -> None:
    edited, mask = edited_images(1), box(4, 6, 10, 20)
    top, left, side = square_around(mask)
    elsewhere = 255 - edited
    elsewhere[:, top : top + side, left : left + side] = edited[:, top : top + side, left : left + side]
    assert scores(metric, [mask], ["cat"], edited) == scores(metric, [mask], ["cat"], elsewhere)
    assert scores(metric, [mask], ["cat"], edited) != scores(metric, [mask], ["cat"], 255 - edited)


def test_there_is_no_score_without_a_prompt_or_a_mask(metric: ClipScore) -> None:
    found = scores(metric, [MASKS[0], MASKS[1], np.zeros_like(MASKS[0])], ["", "  ", "cat"], edited_images())
    assert found == [None, None, None]


def test_a_prompt_longer_than_clip_reads_is_cut(metric: ClipScore) -> None:
    long, cut = scores(metric, MASKS[:2], ["cat " * 30, "cat " * 10], edited_images()[[0, 0]])
    assert long is not None
    assert cut is not None
    assert scores(metric, MASKS[:1], ["cat " * 10], edited_images(1)) == [long]


def test_it_says_that_it_needs_a_clip() -> None:
    with pytest.raises(WeightsError, match="needs weights of role 'clip'"):
        ClipScore.load({"lpips": "vgg.pth"}, "cpu")


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 20), st.integers(1, 20)), st.data())
def test_the_square_lies_inside_and_is_the_smallest_that_holds_the_box(
    shape: tuple[int, int], data: st.DataObject
) -> None:
    (height, width) = shape
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    mask = np.zeros(shape, dtype=bool)
    mask[top:bottom, left:right] = True
    y, x, side = square_around(mask)
    assert 0 <= y <= height - side
    assert 0 <= x <= width - side
    assert side == min(max(bottom - top, right - left), height, width)
    covered = mask[y : y + side, x : x + side]
    if max(bottom - top, right - left) <= min(shape):
        assert covered.sum() == mask.sum()
    assert covered.any()
