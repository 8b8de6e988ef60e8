"""The editor: uint8 batches of rows that share nothing, on networks of the real kind with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from retouch.editors.paint_by_example.editor import PaintByExample
from retouch.editors.paint_by_example.params import Params
from retouch.errors import ConfigError, EditError, Filtered, WeightsError
from retouch.execution.engine import Engine
from retouch.execution.specs import EngineSpec
from retouch.manifests.samples import Failure, Sample
from retouch.models.paint_by_example import CLIP_MEAN, CLIP_STD, save_networks
from retouch.models.weights import resolve
from retouch.plugins import Editor
from retouch.schema import FILTERED, Batch
from retouch.testing import check_editor

from tests.helpers.tiny_clip import write_own_layout
from tests.helpers.tiny_paint_by_example import tiny
from tests.models.test_paint_by_example import saved_folder
from tests.models.test_safety import checker, write_checker

SIZE = 16
PARAMS = Params(steps=4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("family")
    files = {role: str(folder / name) for role, name in save_networks(tiny(), folder).items()}
    clip, _ = write_own_layout(folder)
    return {**files, "clip": clip}


@pytest.fixture(scope="module")
def editor(weights: dict[str, str]) -> PaintByExample:
    return PaintByExample.load(PARAMS, weights, "cpu")


def batch(count: int = 4, **changes: Any) -> Batch:
    """Rows that differ in everything."""
    rng = np.random.default_rng(0)
    mask = np.zeros((count, SIZE, SIZE), bool)
    for i in range(count):
        mask[i, i : i + 8, 4:12] = True
    made = Batch(
        image=rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8),
        mask=mask,
        prompt=[""] * count,
        seed=list(range(count)),
        exemplar=rng.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8),
    )
    return replace(made, **changes)


def pixels(editor: PaintByExample, given: Batch) -> np.ndarray:
    """[B,S,S,3]."""
    return np.stack([result.image for result in editor.edit_batch(given)])


def test_it_keeps_the_contract_of_editors(editor: PaintByExample, weights: dict[str, str]) -> None:
    assert isinstance(editor, Editor)
    assert editor.image_size == SIZE
    for params in ({"steps": 4}, {"steps": 4, "sampler": "ddim", "eta": 1.0}, {"steps": 4, "guidance_scale": 1.0}):
        check_editor(PaintByExample, params, weights)


def test_a_row_keeps_its_pixels_and_distance_whoever_its_mates_are(editor: PaintByExample) -> None:
    given = batch()
    whole = editor.edit_batch(given)
    order = [2, 2, 0, 3]
    assert given.exemplar is not None
    other = replace(
        given,
        image=given.image[order],
        mask=given.mask[order],
        seed=[given.seed[i] for i in order],
        exemplar=given.exemplar[order],
    )
    for place, result in zip(order, editor.edit_batch(other), strict=True):
        assert np.array_equal(result.image, whole[place].image)
        assert result.metrics == whole[place].metrics


def test_two_exemplars_on_one_source_do_not_mix(editor: PaintByExample) -> None:
    given = batch(1)
    assert given.exemplar is not None
    red, blue = (np.broadcast_to(np.uint8(c), (1, 28, 28, 3)).copy() for c in ((255, 0, 0), (0, 0, 255)))

    def edited(*exemplars: np.ndarray) -> np.ndarray:
        same = {
            "image": np.repeat(given.image, 2, 0),
            "mask": np.repeat(given.mask, 2, 0),
            "prompt": ["", ""],
            "seed": [7, 7],
        }
        return pixels(editor, Batch(exemplar=np.concatenate(exemplars), **same))

    both, reds, blues = edited(red, blue), edited(red, red), edited(blue, blue)
    assert np.array_equal(both[0], reds[0])
    assert np.array_equal(both[1], blues[1])
    assert not np.array_equal(both[0], both[1])


def test_the_seed_alone_decides_among_equal_rows(editor: PaintByExample) -> None:
    given = batch()
    first, again, other = (pixels(editor, replace(given, seed=s)) for s in ([1] * 4, [1] * 4, [2] * 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def passes(editor: PaintByExample, given: Batch) -> list[int]:
    """The UNet's batch at each of its passes."""
    seen: list[int] = []
    hook = editor.networks.unet.register_forward_hook(lambda _module, args, _out: seen.append(len(args[0])))
    try:
        editor.edit_batch(given)
    finally:
        hook.remove()
    return seen


def test_a_scale_of_one_asks_the_network_once_a_step_at_the_batchs_own_size(editor: PaintByExample) -> None:
    ddim = {"sampler": "ddim"}
    assert passes(editor, batch(2, params={**ddim, "guidance_scale": 1.0})) == [2] * 4
    assert passes(editor, batch(2, params=ddim)) == [4] * 4
    assert passes(editor, batch(2)) == [4] * 5  # plms looks ahead once


@pytest.mark.parametrize(
    "override",
    [
        {"guidance_scale": 2.0},
        {"sampler": "ddim"},
        {"sampler": "dpm++"},
        {"posterior": "mode"},
        {"mask_resize": "nearest"},
        {"tokens": "all"},
        {"steps": 5},
        {"precision": "bfloat16"},
    ],
)
def test_a_rows_own_params_reach_the_edit(editor: PaintByExample, override: Mapping[str, Any]) -> None:
    mask = np.zeros((1, SIZE, SIZE), bool)
    mask[:, 3:10, 4:11] = True  # no multiple of the latents' stride: bilinear and nearest differ
    assert not np.array_equal(
        pixels(editor, batch(1, mask=mask)), pixels(editor, batch(1, mask=mask, params=dict(override)))
    )


def test_candidates_are_ranked_by_likeness_where_there_is_a_clip(
    editor: PaintByExample, weights: dict[str, str]
) -> None:
    for result in editor.edit_batch(batch()):
        assert set(result.metrics) == {"exemplar_distance"} == set(editor.columns)
        assert 0 <= result.metrics["exemplar_distance"] <= 2
    bare = PaintByExample.load(PARAMS, {k: v for k, v in weights.items() if k != "clip"}, "cpu")
    assert [result.metrics for result in bare.edit_batch(batch())] == [{}] * 4


def test_the_distance_looks_at_the_masks_box_alone(editor: PaintByExample) -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[4:12, 4:12] = True
    exemplar = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0))
    image = torch.zeros(3, SIZE, SIZE)
    image[:, 4:12, 4:12] = torch.nn.functional.interpolate(exemplar[None], (8, 8), mode="area")[0] * 2 - 1
    alike = editor._scores(image, mask, exemplar)
    assert editor._scores(torch.where(torch.from_numpy(mask), image, 0.8), mask, exemplar) == alike
    assert editor._scores(image, ~mask, exemplar)["exemplar_distance"] != alike["exemplar_distance"]
    assert editor._scores(image, mask & False, exemplar)["exemplar_distance"] > 0  # an empty mask is no crash


def test_an_exemplar_of_any_shape_is_made_square_the_way_the_row_asks(editor: PaintByExample) -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = 255
    assert editor.prepare_exemplar(wide, {}).shape == (28, 28, 3)
    assert editor.prepare_exemplar(wide, {})[:, 0].max() == 0
    assert editor.prepare_exemplar(wide, {"reference": "crop"})[:, 1:-1].min() > 240
    ready = editor.prepare_exemplar(wide, {})
    assert np.array_equal(editor.prepare_exemplar(ready, {}), ready)


def test_a_flagged_edit_is_filtered_and_never_a_black_image(weights: dict[str, str], tmp_path: Path) -> None:
    always = write_checker(tmp_path / "always", checker(threshold=-2.0))
    never = write_checker(tmp_path / "never", checker(threshold=2.0))
    strict = PaintByExample.load(PARAMS, {**weights, "safety": always}, "cpu")
    errors = [result.error for result in strict.edit_batch(batch(2))]
    assert [type(error) for error in errors] == [Filtered, Filtered]
    assert Failure.of(errors[0], "edit").status == FILTERED
    assert str(errors[0]).startswith("the safety checker flagged the edit")
    plain = PaintByExample.load(PARAMS, weights, "cpu")
    assert np.array_equal(
        pixels(PaintByExample.load(PARAMS, {**weights, "safety": never}, "cpu"), batch(2)), pixels(plain, batch(2))
    )
    off = replace(PARAMS, safety_checker=False)
    assert PaintByExample.load(off, {**weights, "safety": always}, "cpu").edit_batch(batch(2))
    with pytest.raises(ConfigError, match="set it in the job's params"):
        PaintByExample.load(off, weights, "cpu").edit_batch(batch(2, params={"safety_checker": True}))


def test_what_cannot_be_edited_is_one_line(editor: PaintByExample, weights: dict[str, str]) -> None:
    with pytest.raises(EditError, match="needs an exemplar: give the manifest an exemplar column"):
        editor.edit_batch(batch(exemplar=None))
    with pytest.raises(ConfigError, match="600 steps would begin at timestep 1000"):
        PaintByExample.load(Params(steps=600), weights, "cpu")
    with pytest.raises(ConfigError, match=r"params\.scale: unknown key"):
        editor.edit_batch(batch(params={"scale": 3}))
    with pytest.raises(WeightsError, match="needs weights exemplar_vae"):
        PaintByExample.load(PARAMS, {"clip": weights["clip"]}, "cpu")
    with pytest.raises(EditError, match=r"not finite \(entry 0, 1 of 2\); lower guidance_scale"):
        editor.edit_batch(batch(2, params={"guidance_scale": 1e38}))


@torch.no_grad()
def test_in_a_job_only_the_flagged_rows_are_filtered_and_their_mates_are_what_they_were(
    weights: dict[str, str], tmp_path: Path
) -> None:
    given = batch(6)
    assert given.exemplar is not None
    samples = [
        Sample(str(i), f"fp-{i}", source=given.image[i], mask=given.mask[i], exemplar=given.exemplar[i])
        for i in range(6)
    ]
    spec = EngineSpec("retouch.editors.paint_by_example.editor:PaintByExample", {"steps": 4}, weights, batch_size=4)
    plain = Engine(spec, "cpu").edit(samples)
    assert [answer.failure for answer in plain] == [None] * 6
    probe = checker()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    best = []
    for answer in plain:
        x = torch.from_numpy(answer.kept[0].image).permute(2, 0, 1)[None] / 255
        x = torch.nn.functional.interpolate(x, (28, 28), mode="bicubic", antialias=True).clamp(0, 1)
        embedded = probe.visual_projection(probe.vision_model((x - mean) / std)[1])
        best.append(float(torch.cosine_similarity(embedded, probe.concept_embeds).max()))
    ordered = np.sort(best)
    at = int(np.diff(ordered).argmax())  # in the widest gap, so that rounding to levels decides nothing
    limit = float(ordered[at : at + 2].mean())
    strict = checker(threshold=limit)
    safe = Engine(replace(spec, weights={**weights, "safety": write_checker(tmp_path, strict)}), "cpu").edit(samples)
    flagged = [answer.failure.status == FILTERED if answer.failure else False for answer in safe]
    assert flagged == [score > limit for score in best]
    for before, after, gone in zip(plain, safe, flagged, strict=True):
        assert len(after.kept) == (not gone)
        assert gone or np.array_equal(before.kept[0].image, after.kept[0].image)


def test_a_folder_of_diffusers_is_edited_with_its_own_safety_checker(tmp_path: Path) -> None:
    folder = saved_folder(tmp_path / "published", tiny(), old=True)
    write_checker(tmp_path / "published" / "safety_checker", checker(threshold=-2.0))
    files = resolve(folder).files
    (flagged,) = PaintByExample.load(PARAMS, files, "cpu").edit_batch(batch(1))
    assert isinstance(flagged.error, Filtered)
    off = replace(PARAMS, safety_checker=False)
    assert PaintByExample.load(off, files, "cpu").edit_batch(batch(1))[0].image.shape == (SIZE, SIZE, 3)
