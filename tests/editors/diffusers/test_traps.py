"""What goes wrong when a pipeline of diffusers is called plainly, and does not in the editor.

Each test makes the plain call as well, so that a change in diffusers is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from retouch.errors import ConfigError, EditError, Filtered

from tests.editors.diffusers.conftest import SIZE, example, pixels
from tests.helpers import tiny_pipelines
from tests.helpers.tiny_pipelines import PROMPTS, build, call, inputs


def test_z_image_writes_into_the_callers_prompts(editor: Callable[..., Any]) -> None:
    given = {"image": inputs(2)[0], "mask_image": inputs(2)[1], "num_inference_steps": 1, "output_type": "np"}
    prompts = ["a cat", "a dog"]
    build("z_image_inpaint")(prompt=prompts, height=SIZE, width=SIZE, max_sequence_length=64, **given)
    assert prompts != ["a cat", "a dog"]
    batch = example(2)
    before = list(batch.prompt)
    loaded = editor("z_image_inpaint")
    assert np.array_equal(pixels(loaded.edit_batch(batch)), pixels(loaded.edit_batch(batch)))
    assert batch.prompt == before


def test_flux2_takes_a_list_of_images_as_references_of_one_edit(editor: Callable[..., Any]) -> None:
    images, masks, prompts, seeds = inputs()
    pipe = build("flux2_klein")
    one = call(pipe, "flux2_klein", images, masks, prompts, seeds)[0]
    other = call(pipe, "flux2_klein", [images[0], *images[:0:-1]], masks, prompts, seeds)[0]
    assert np.abs(one - other).max() * 255 > 0.01  # the first row moved with its mates' images
    assert editor("flux2_klein").max_batch == 1


def test_kandinsky_blends_the_first_rows_image_into_all(editor: Callable[..., Any]) -> None:
    images, masks, prompts, seeds = inputs()
    pipe = build("kandinsky22_inpaint")
    first = call(pipe, "kandinsky22_inpaint", images, masks, prompts, seeds)[0]
    turned = [part[1:] + part[:1] for part in (images, masks, prompts, seeds)]
    last = call(pipe, "kandinsky22_inpaint", *turned)[-1]
    assert np.abs(first - last).max() * 255 > 100
    assert editor("kandinsky22_inpaint").max_batch == 1


def test_qwen_pads_prompts_to_the_longest_of_a_call(editor: Callable[..., Any]) -> None:
    pipe = build("qwen_inpaint")
    short, mixed = (pipe.encode_prompt(prompts, device="cpu")[0][0] for prompts in (["a cat"] * 4, PROMPTS))
    assert len(mixed) > len(short)
    assert editor("qwen_inpaint").max_batch == 1


def test_kontext_would_choose_a_size_of_its_own(editor: Callable[..., Any]) -> None:
    loaded = editor("flux_kontext")
    assert loaded.loaded.default("_auto_resize") is True  # to one of 17 sizes of a megapixel
    result = loaded.edit_batch(example(1))[0]
    assert (result.image.shape, result.metrics["network_size"]) == ((SIZE, SIZE, 3), f"{SIZE}x{SIZE}")


@pytest.mark.parametrize(("kind", "multiple"), [("sd_inpaint_9ch", 8), ("flux_fill", 16), ("kandinsky22_inpaint", 64)])
def test_a_size_that_the_networks_cannot_take_is_refused_at_load(
    kind: str, multiple: int, editor: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=f"size 70: .* needs multiples of {multiple}"):
        editor(kind, size=70)


def test_strength_may_leave_no_step(editor: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="step"):
        call(build("sd_inpaint_9ch"), "sd_inpaint_9ch", *inputs(), strength=0.2)
    with pytest.raises(ConfigError, match=r"strength 0\.2 of 4 steps leaves none"):
        editor("sd_inpaint_9ch").edit_batch(example(params={"strength": 0.2}))


@pytest.mark.parametrize("kind", ["sd3_inpaint", "flux_inpaint"])
def test_inpainting_ignores_the_source_unless_strength_says_else(kind: str, editor: Callable[..., Any]) -> None:
    loaded = editor(kind)
    assert loaded.loaded.default("strength") == 0.6
    whole = pixels(loaded.edit_batch(example()))
    assert np.array_equal(whole, pixels(loaded.edit_batch(example(params={"strength": 1.0}))))
    assert not np.array_equal(whole, pixels(loaded.edit_batch(example(params={"strength": 0.6}))))


def test_a_prompt_beyond_the_encoders_length_is_cut_and_counted(editor: Callable[..., Any]) -> None:
    long = "a" * 60
    loaded = editor("sd_inpaint_9ch")
    results = loaded.edit_batch(example(2, prompt=[long, long + " and a cat"], seed=[1, 1]))
    cut = [result.metrics["prompt_tokens_cut"] for result in results]
    assert 0 < cut[0] < cut[1]
    short = loaded.edit_batch(example(2, prompt=["a cat", ""]))
    assert [result.metrics["prompt_tokens_cut"] for result in short] == [0, 0]


def test_t5_reads_what_clip_cuts(editor: Callable[..., Any]) -> None:
    results = editor("flux_fill").edit_batch(example(2, prompt=["a" * 40, "a" * 60]))
    assert [result.metrics["prompt_tokens_cut"] > 0 for result in results] == [False, True]


@pytest.mark.parametrize("kind", ["flux_inpaint", "flux_fill", "flux2_klein", "flux_kontext"])
def test_a_negative_prompt_that_would_be_ignored_fails(kind: str, editor: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="negative_prompt is not read"):
        editor(kind).edit_batch(example(negative_prompt=["grey", "", "", ""]))


def test_the_safety_checker_flags_rows_and_no_mates(editor: Callable[..., Any], tmp_path: Path) -> None:
    tiny_pipelines.sd_safe(-1.0).save_pretrained(tmp_path)
    strict = {"model_index": str(tmp_path / "model_index.json")}
    flagged = editor("sd_inpaint_safe", strict).edit_batch(example())
    assert all(isinstance(result.error, Filtered) for result in flagged)
    passed = editor("sd_inpaint_safe").edit_batch(example())
    assert all(result.error is None for result in passed)
    off = editor("sd_inpaint_safe", strict, safety_checker=False)
    assert all(result.error is None for result in off.edit_batch(example()))


def test_one_flagged_row_leaves_its_mates_as_they_are(
    editor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = editor("sd_inpaint_safe")
    before = pixels(loaded.edit_batch(example()))
    checker = type(loaded.loaded.pipe.safety_checker)
    whole = checker.forward

    def second_is_flagged(self: Any, clip_input: Any, images: Any) -> Any:
        images, flags = whole(self, clip_input, images)
        images[1] = 0
        return images, [False, True, *flags[2:]]

    monkeypatch.setattr(checker, "forward", second_is_flagged)
    results = loaded.edit_batch(example())
    assert [isinstance(result.error, Filtered) for result in results] == [False, True, False, False]
    assert np.array_equal(pixels(results)[[0, 2, 3]], before[[0, 2, 3]])


def test_a_result_that_is_not_finite_names_its_entry(editor: Callable[..., Any]) -> None:
    loaded = editor("sd_inpaint_9ch")
    with torch.no_grad():
        next(loaded.loaded.pipe.vae.decoder.parameters()).fill_(float("nan"))
    with pytest.raises(EditError, match="not finite"):
        loaded.edit_batch(example())
