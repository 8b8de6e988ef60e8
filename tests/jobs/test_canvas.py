"""A canvas that paints nothing, or contradicts itself, is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
from retouch.errors import ConfigError
from retouch.jobs.canvas import CanvasSpec
from retouch.jobs.config import EditJob, parse_job

from tests.jobs.test_identity import edit_job


def canvas_of(**canvas: Any) -> CanvasSpec:
    found = edit_job(canvas=canvas).canvas
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"canvas": {}}, "canvas: all sides are 0"),
        ({"canvas": {"left": 0, "top": 0.0}}, "canvas: all sides are 0"),
        ({"canvas": {"left": 2, "prompt_right": "sea"}}, "prompt_right is given, but right is 0"),
        ({"canvas": {"left": 25.0}}, "canvas.left: got 25.0; allowed: a whole number from 0, or a number from 0"),
        ({"canvas": {"left": -1}}, "canvas.left: got -1"),
        ({"canvas": {"left": 2, "steps": 0}}, "canvas.steps: got 0"),
        ({"canvas": {"lef": 2}}, "canvas.lef: unknown key; did you mean left"),
        ({"canvas": {"left": 2}, "fit": "face"}, "take fit: auto"),
        ({"canvas": {"left": 2}, "composite": "region"}, "take composite: mask"),
        ({"canvas": {"left": 2}, "mask": {"grow": 3}}, "mask.grow widens masks"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        edit_job(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_pixels_and_shares_survive_a_run_record() -> None:
    job = edit_job(canvas={"left": 1, "right": 1.0, "prompt_left": "sea"})
    again = parse_job(job.model_dump(mode="json"), "run.json")
    assert isinstance(again, EditJob)
    assert again.canvas is not None
    assert again.canvas == job.canvas
    assert [type(value) for value in again.canvas.margins.values()] == [int, float, int, int]


def test_the_rows_prompt_is_needed_only_where_a_side_has_none() -> None:
    assert not canvas_of(left=2, prompt_left="sea").needs_prompt
    assert canvas_of(left=2, right=2, prompt_left="sea").needs_prompt
