"""A row's pixels depend on the row alone: with other mates, places and prompt lengths, at one batch shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retouch import plugins
from retouch.editors.diffusers.families import FAMILIES
from retouch.testing import check_editor

from tests.editors.diffusers.conftest import example, params_of, pixels
from tests.helpers import tiny_pipelines

KINDS = [kind for kind in tiny_pipelines.KINDS if not kind.endswith("text_to_image")]
BATCHED = [kind for kind in KINDS if kind not in tiny_pipelines.ONE_A_CALL and not kind.startswith("qwen")]
NEGATIVE = ["sd_inpaint_9ch", "sdxl_inpaint_9ch", "sd3_inpaint", "flux_inpaint", "z_image_inpaint"]


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_editor_keeps_its_contract(kind: str, precision: str, folder: Callable[..., Path]) -> None:
    if kind.startswith("qwen_edit"):
        tiny_pipelines.small_qwen()
    weights = {"model_index": str(folder(kind) / "model_index.json")}
    check_editor(plugins.find("editors", "diffusers"), params_of(kind, precision=precision, steps=2), weights)


@pytest.mark.parametrize("kind", NEGATIVE)
def test_a_negative_prompt_belongs_to_its_row(kind: str, editor: Callable[..., Any]) -> None:
    more = {"true_cfg_scale": 3.0} if kind == "flux_inpaint" else {}
    loaded = editor(kind, **more)
    plain = pixels(loaded.edit_batch(example(negative_prompt=["", "", "", ""])))
    mixed = pixels(loaded.edit_batch(example(negative_prompt=["", "blurred, grey, and much else besides", "", ""])))
    assert np.array_equal(plain[[0, 2, 3]], mixed[[0, 2, 3]])
    assert not np.array_equal(plain[1], mixed[1])


def test_a_row_without_a_negative_prompt_takes_the_jobs(editor: Callable[..., Any]) -> None:
    own = pixels(editor("sd_inpaint_9ch").edit_batch(example(2, negative_prompt=["grey", "blue"])))
    jobs = pixels(editor("sd_inpaint_9ch", negative_prompt="grey").edit_batch(example(2, negative_prompt=["", "blue"])))
    assert np.array_equal(own, jobs)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_mix_rows_get_one_row_per_call(kind: str, editor: Callable[..., Any]) -> None:
    loaded = editor(kind)
    assert loaded.loaded.name in FAMILIES
    assert loaded.max_batch == (None if kind in BATCHED else 1)


def test_a_class_that_is_not_listed_gets_one_row_per_call(
    editor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = pixels(editor("sd_inpaint_9ch").edit_batch(example()))
    monkeypatch.setattr("retouch.editors.diffusers.families.FAMILIES", {})
    loaded = editor("sd_inpaint_9ch")
    assert loaded.max_batch == 1
    # Another shape rounds differently; it is the same edit.
    assert np.abs(pixels(loaded.edit_batch(example())) - together).max() <= 1
