"""The editor: uint8 batches of rows that share nothing, on tiny Stable Diffusion and SDXL folders."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from retouch.editors.blended_latent.editor import MAX_TEXTS, BlendedLatent
from retouch.editors.blended_latent.params import Params
from retouch.errors import ConfigError, EditError, Filtered, WeightsError
from retouch.execution.edit import run
from retouch.models.weights import resolve
from retouch.outputs import results
from retouch.outputs.verify import verify_output
from retouch.plugins import Editor
from retouch.schema import Batch
from retouch.testing import check_editor
from rich.console import Console

from tests.helpers import tiny_pipelines
from tests.helpers.datasets import painter_job, write_dataset
from tests.helpers.tiny_clip import write_own_layout
from tests.models.test_safety import checker, write_checker

pytestmark = pytest.mark.slow

SD, XL = "sd_text_to_image", "sdxl_text_to_image"
SIZE = 64
PARAMS: dict[str, Any] = {"steps": 4, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {kind: Path(tiny_pipelines.save(kind, root / kind)) for kind in (SD, XL)}


@pytest.fixture(scope="module")
def weights(folders: dict[str, Path]) -> dict[str, str]:
    clip, _ = write_own_layout(folders[SD].parent)
    return {**resolve(str(folders[SD])).files, "clip": clip}


@pytest.fixture(scope="module")
def editor(weights: dict[str, str]) -> BlendedLatent:
    return BlendedLatent.load(Params(**PARAMS), weights, "cpu")


def batch(count: int = 4, **changes: Any) -> Batch:
    """Rows that differ in everything."""
    rng = np.random.default_rng(0)
    mask = np.zeros((count, SIZE, SIZE), bool)
    for i in range(count):
        mask[i, 4 * i : 4 * i + 30, 12:50] = True
    prompts = ["a cat", "two red apples on a table", "", "blue"]
    made = Batch(
        image=rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8),
        mask=mask,
        prompt=[prompts[i % 4] for i in range(count)],
        seed=list(range(count)),
    )
    return replace(made, **changes)


def pixels(editor: BlendedLatent, given: Batch) -> np.ndarray:
    """[B,S,S,3]."""
    return np.stack([result.image for result in editor.edit_batch(given)])


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (SD, {}),
        (SD, {"preset": "paper", "shrink": 1}),
        (SD, {"preset": "repo_sd2", "precision": "bfloat16"}),
        (SD, {"guidance_scale": 1.0, "pixel_blending": 0.5}),
        (SD, {"background": "weights", "background_steps": 2}),
        (XL, {"preset": "repo_sdxl", "negative_prompt": "blurred"}),
        pytest.param(SD, {"background": "latents", "background_steps": 2}, marks=pytest.mark.long),
        pytest.param(SD, {"background": "poisson"}, marks=pytest.mark.long),
        pytest.param(XL, {"precision": "bfloat16"}, marks=pytest.mark.long),
    ],
)
def test_it_keeps_the_contract_of_editors(folders: dict[str, Path], kind: str, params: dict[str, Any]) -> None:
    check_editor(BlendedLatent, {**PARAMS, **params}, resolve(str(folders[kind])).files)


def test_its_size_is_the_folders(editor: BlendedLatent) -> None:
    assert isinstance(editor, Editor)
    assert editor.image_size == SIZE


def test_a_row_keeps_its_pixels_and_distance_whatever_its_mates_and_their_prompts_are(editor: BlendedLatent) -> None:
    given = batch()
    whole = editor.edit_batch(given)
    order = [2, 2, 0, 3]
    other = replace(
        given,
        image=given.image[order],
        mask=given.mask[order],
        seed=[given.seed[i] for i in order],
        prompt=["", "a prompt that is longer than all of the others by far", "a cat", "blue"],
    )
    for place, result in list(zip(order, editor.edit_batch(other), strict=True))[2:]:
        assert np.array_equal(result.image, whole[place].image)
        assert result.metrics == whole[place].metrics
    before = torch.get_rng_state()
    editor.edit_batch(other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_alone_decides_among_equal_rows(editor: BlendedLatent) -> None:
    first, again, other = (pixels(editor, batch(seed=[seed] * 4)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_prompt_reaches_the_edit(editor: BlendedLatent) -> None:
    first, second = (pixels(editor, batch(1, prompt=[prompt])) for prompt in ("a cat", "a dog"))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, pixels(editor, batch(1, prompt=[" a cat "])))


def test_a_rows_negative_prompt_is_read_in_place_of_the_jobs(editor: BlendedLatent) -> None:
    given = batch(2, prompt=["a cat"] * 2)
    of_the_job = pixels(editor, replace(given, params={"negative_prompt": "red"}))
    of_one_row = pixels(editor, replace(given, params={"negative_prompt": "red"}, negative_prompt=["blue", ""]))
    assert not np.array_equal(of_one_row[0], of_the_job[0])
    assert np.array_equal(of_one_row[1], of_the_job[1])
    assert np.array_equal(of_one_row[0], pixels(editor, replace(given, params={"negative_prompt": "blue"}))[0])
    with pytest.raises(ConfigError, match="negative_prompt is not read with guidance_scale 1"):
        editor.edit_batch(replace(given, params={"guidance_scale": 1.0}, negative_prompt=["blue", ""]))


@pytest.mark.parametrize(
    "override",
    [
        {"steps": 5},
        {"guidance_scale": 1.0},
        {"negative_prompt": "blurred"},
        {"skip": 0.5},
        {"start": "noise"},
        {"blend": "before"},
        {"renoise": "t"},
        {"fresh_noise": False},
        {"posterior": "sample"},
        {"mask_resize": "cover"},
        {"shrink": 1},
        {"pixel_blending": 0.5},
        {"background": "poisson"},
        {"background": "latents", "background_steps": 1},
        {"precision": "bfloat16"},
        {"preset": "repo_sd2"},
    ],
)
def test_a_rows_own_params_reach_the_edit(editor: BlendedLatent, override: Mapping[str, Any]) -> None:
    mask = np.zeros((1, SIZE, SIZE), bool)
    mask[:, 5:40, 6:41] = True  # no multiple of the latents' stride: nearest and cover differ
    plain, changed = (pixels(editor, batch(1, mask=mask, params=params)) for params in ({}, dict(override)))
    assert not np.array_equal(plain, changed)


def passes(editor: BlendedLatent, given: Batch) -> list[int]:
    """The UNet's batch at each of its passes."""
    seen: list[int] = []
    hook = editor.networks.unet.register_forward_hook(lambda _module, args, _out: seen.append(len(args[0])))
    try:
        editor.edit_batch(given)
    finally:
        hook.remove()
    return seen


def test_a_scale_of_one_asks_the_network_once_a_step_at_the_batchs_own_size(editor: BlendedLatent) -> None:
    assert passes(editor, batch(2)) == [4] * 4
    assert passes(editor, batch(2, params={"guidance_scale": 1.0})) == [2] * 4
    assert passes(editor, batch(2, params={"steps": 8, "skip": 0.25})) == [4] * 6


def test_candidates_are_ranked_by_the_prompt_where_there_are_both_a_prompt_and_a_clip(
    editor: BlendedLatent, weights: dict[str, str]
) -> None:
    for result, prompt in zip(editor.edit_batch(batch()), batch().prompt, strict=True):
        assert set(result.metrics) == {"prompt_tokens_cut", *(["clip_distance"] if prompt else [])}
        assert 0 <= result.metrics.get("clip_distance", 0) <= 2
    bare = BlendedLatent.load(Params(**PARAMS), {"model_index": weights["model_index"]}, "cpu")
    assert [result.metrics for result in bare.edit_batch(batch())] == [{"prompt_tokens_cut": 0}] * 4


def test_a_prompt_that_is_cut_is_edited_and_reported(editor: BlendedLatent) -> None:
    (result,) = editor.edit_batch(batch(1, prompt=["a" * 40]))  # this tokenizer reads 30 letters
    assert result.error is None
    assert result.metrics["prompt_tokens_cut"] == 10


def test_a_prompt_is_encoded_once(editor: BlendedLatent) -> None:
    seen: list[int] = []
    encoder = editor.networks.towers[0].encoder
    hook = encoder.register_forward_hook(lambda _module, _args, _out: seen.append(1))
    try:
        editor.edit_batch(batch(2, prompt=["new one", "new one"]))
        editor.edit_batch(batch(2, prompt=["new one", "new two"]))
    finally:
        hook.remove()
    assert len(seen) == 2
    for number in range(MAX_TEXTS + 1):
        editor._text(f"text {number}")
    assert len(editor._texts) <= MAX_TEXTS


def test_a_mask_that_vanishes_at_the_latents_size_is_that_rows_error(editor: BlendedLatent) -> None:
    given = batch(2)
    given.mask[0] = False
    given.mask[0, 8, 10:40] = True  # every second line is the middle of a block
    bad, good = editor.edit_batch(given)
    assert isinstance(bad.error, EditError)
    assert str(bad.error) == "the mask has no pixel at the latent's size; set mask_resize: cover"
    assert good.error is None
    assert [one.error for one in editor.edit_batch(replace(given, params={"mask_resize": "cover"}))] == [None, None]


def test_a_flagged_edit_is_filtered(weights: dict[str, str], tmp_path: Path) -> None:
    always = write_checker(tmp_path, checker(threshold=-2.0))
    strict = BlendedLatent.load(Params(**PARAMS), {**weights, "safety": always}, "cpu")
    assert [type(result.error) for result in strict.edit_batch(batch(2))] == [Filtered, Filtered]
    off = strict.edit_batch(batch(2, params={"safety_checker": False}))
    assert [result.error for result in off] == [None, None]
    unloaded = BlendedLatent.load(Params(**PARAMS, safety_checker=False), {**weights, "safety": always}, "cpu")
    with pytest.raises(ConfigError, match="safety_checker was not loaded"):
        unloaded.edit_batch(batch(2, params={"safety_checker": True}))


def test_what_cannot_be_edited_is_one_line(editor: BlendedLatent, weights: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"params\.strength: unknown key"):
        editor.edit_batch(batch(params={"strength": 1.0}))
    with pytest.raises(ConfigError, match="compile is settled"):
        editor.edit_batch(batch(params={"compile": True}))
    with pytest.raises(WeightsError, match="needs weights for model_index, a text-to-image folder"):
        BlendedLatent.load(Params(), {"clip": weights["clip"]}, "cpu")
    with pytest.raises(EditError, match=r"not finite \(entry 0, 1 of 2\); lower guidance_scale"):
        editor.edit_batch(batch(2, params={"guidance_scale": 1e38}))


def test_a_whole_job_on_a_folder(folders: dict[str, Path], weights: dict[str, str], tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 5, {1: "", 2: "a" * 40})
    job = painter_job(
        tmp_path,
        manifest,
        editor={
            "name": "blended_latent",
            "weights": {"model_index": str(folders[SD]), "clip": weights["clip"]},
            "params": {"steps": 2, "background": "poisson"},
        },
        metrics=["background_l1"],
        candidates=2,
    )
    assert run(job, executor="local", console=Console(file=io.StringIO())).exit_code == 0
    table = results.read(job.output).to_pylist()
    assert {row["status"] for row in table} == {"success"}
    assert {row["background_changed_px"] for row in table} == {0}
    found = {row["key"]: (row["prompt_tokens_cut"], row["clip_distance"] is None) for row in table}
    assert found == {f"row-{i:03d}": (10 if i == 2 else 0, i == 1) for i in range(5)}
    assert verify_output(job.output).ok
