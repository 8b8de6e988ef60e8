"""Columns of a row that only some editors read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
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
