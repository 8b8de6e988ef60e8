"""Columns of a row that only some editors read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from retouch.jobs.canvas import CanvasSpec
from retouch.jobs.config import ImagesSpec, MaskSpec
from retouch.manifests.decode import DecodeSpec, decode

from tests.helpers.datasets import picture, png

READS = DecodeSpec(frozenset({"mask", "prompt", "control"}))


def request(**cells: Any) -> dict[str, Any]:
    return {"key": "a", "fingerprint": "f", "image": png(picture(0)), "prompt": "a cat", **cells}


def test_a_control_image_is_brought_to_the_images_size() -> None:
    same = decode(request(control=png(picture(1))), READS)
    assert np.array_equal(same.control, picture(1))
    double = decode(request(control=png(np.full((40, 48, 3), 77, np.uint8))), READS)
    assert np.array_equal(double.control, np.full((20, 24, 3), 77))


@pytest.mark.parametrize("shape", [(24, 20, 3), (20, 40, 3)])
def test_a_control_image_of_another_shape_fails_the_row(shape: tuple[int, ...]) -> None:
    failure = decode(request(control=png(np.zeros(shape, np.uint8))), READS).failure
    assert failure is not None
    assert "of another shape; make it from the same image" in failure.message


def test_an_editor_that_reads_no_control_image_needs_none_to_be_readable() -> None:
    found = decode(request(control=b"no image", negative_prompt="grey"), DecodeSpec(frozenset({"mask"})))
    assert (found.failure, found.control, found.negative_prompt) == (None, None, "grey")
    broken = decode(request(control=b"no image"), READS).failure
    assert broken is not None
    assert "control" in broken.message


@pytest.mark.parametrize(
    ("values", "how", "words"),
    [
        ([0, 2], {}, "its largest value is 2, and mask.threshold 128; set mask: {threshold: 2}"),
        ([0, 90], {"threshold": 100}, "its largest value is 90, and mask.threshold 100"),
        ([0, 0], {}, "white (255, or 65535 of 16 bits) marks what to edit"),
        ([255, 255], {"invert": True}, "mask.invert edits what is black"),
    ],
)
def test_a_mask_that_marks_nothing_fails_with_what_to_set(values: list[int], how: dict[str, Any], words: str) -> None:
    mask = png(np.full((20, 24), values[0], np.uint8) + np.eye(20, 24, dtype=np.uint8) * (values[1] - values[0]))
    failure = decode(request(mask=mask), DecodeSpec(READS.inputs, MaskSpec(**how))).failure
    assert failure is not None
    assert words in failure.message


def test_the_job_bounds_the_pixels_of_every_file() -> None:
    small, large = png(picture(0, 10, 12)), png(picture(0, 11, 12))
    spec = DecodeSpec(READS.inputs, images=ImagesSpec(max_pixels=120))
    assert decode(request(image=small, mask=small, control=small), spec).failure is None
    for column in ("image", "mask", "control"):
        failure = decode(request(**{"image": small, column: large}), spec).failure
        assert failure is not None
        assert f"{column} has 12x11 pixels, over the limit of 120; set images: {{max_pixels: 132}}" in failure.message


CANVAS = DecodeSpec(frozenset({"mask", "prompt", "control"}), canvas=CanvasSpec(left=4, top=0.5))


def test_on_a_canvas_the_new_borders_are_the_mask_and_the_image_stays() -> None:
    found = decode(request(), CANVAS)
    assert found.source is not None
    assert found.frame is not None
    assert found.source.shape == (30, 28, 3)
    assert np.array_equal(found.source[10:, 4:], picture(0))
    assert np.array_equal(found.mask, ~found.frame.footprint((30, 28)))
    assert decode(request(control=png(picture(1, 30, 28))), CANVAS).control.shape == (30, 28, 3)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"mask": png(np.full((20, 24), 255, np.uint8))}, "the row has a mask"),
        ({"bbox": [0, 0, 4, 4]}, "the row has a bbox"),
        ({"image": png(np.zeros((1, 6, 3), np.uint8))}, "the canvas adds no pixel to an image of 6x1"),
    ],
)
def test_a_row_that_no_canvas_suits_fails_with_its_reason(cells: dict[str, Any], words: str) -> None:
    spec = DecodeSpec(frozenset({"mask"}), canvas=CanvasSpec(top=0.01 if "image" in cells else 2))
    failure = decode(request(**cells), spec).failure
    assert failure is not None
    assert words in failure.message


def test_a_side_with_a_prompt_of_its_own_needs_none_of_the_row() -> None:
    needs = frozenset({"prompt"})
    own = DecodeSpec(frozenset({"prompt"}), canvas=CanvasSpec(left=2, prompt_left="sea"), needs=needs)
    assert decode(request(prompt=""), own).failure is None
    shared = DecodeSpec(frozenset({"prompt"}), canvas=CanvasSpec(left=2), needs=needs)
    assert decode(request(prompt=""), shared).failure is not None
