"""The editor: uint8 batches of rows that share nothing, on networks of the real kind with random weights."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from retouch.editors.blended_diffusion.editor import BlendedDiffusion
from retouch.editors.blended_diffusion.params import Params
from retouch.errors import ConfigError, EditError, WeightsError
from retouch.models.pixel_unet import PixelUNet
from retouch.plugins import Editor, find
from retouch.schema import Batch
from safetensors.torch import save_file

from tests.helpers.families import SIZE, UNET
from tests.helpers.tiny_clip import write_own_layout

PARAMS = Params(timesteps=5, skip_timesteps=1, aug_num=3, clip_guidance_lambda=30.0, range_lambda=1.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = PixelUNet.from_config(UNET)
    (folder / "unet.json").write_text(json.dumps(UNET))
    save_file(unet.state_dict(), folder / "unet.safetensors")
    clip, _ = write_own_layout(folder, tower="resnet")
    return {"unet": str(folder / "unet.safetensors"), "clip": clip}


@pytest.fixture(scope="module")
def editor(weights):
    return BlendedDiffusion.load(PARAMS, weights, "cpu")


PROMPTS = ["a red cat", "cat", "red", "a cat a cat"]


def rows(*chosen, **changes):
    """A batch of numbered rows; row i is the same wherever it stands."""
    images, masks = [], []
    for i in chosen:
        generator = np.random.default_rng(i)
        images.append(generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
        mask[2 + i % 3 : 12, 3 : 11 + i % 4] = True
        masks.append(mask)
    batch = Batch(
        image=np.stack(images),
        mask=np.stack(masks),
        prompt=[PROMPTS[i % len(PROMPTS)] for i in chosen],
        seed=[1000 + i for i in chosen],
    )
    return dataclasses.replace(batch, **changes)


def pictures(results):
    return np.stack([result.image for result in results])


def test_it_keeps_the_editors_contract(editor):
    assert isinstance(editor, Editor)
    assert editor.image_size == SIZE
    assert isinstance(editor, find("editors", "blended_diffusion"))


def test_a_batch_gives_an_image_and_a_distance_an_entry(editor):
    results = editor.edit_batch(rows(0, 1))
    assert [result.image.shape for result in results] == [(SIZE, SIZE, 3)] * 2
    assert {result.image.dtype for result in results} == {np.dtype(np.uint8)}
    assert all(0 <= result.metrics["clip_distance"] <= 5 for result in results)


def test_pixels_outside_the_mask_are_the_sources_bit_for_bit(editor):
    batch = rows(0, 1, 2)
    edited = pictures(editor.edit_batch(batch))
    assert np.array_equal(edited[~batch.mask], batch.image[~batch.mask])
    assert (edited[batch.mask] != batch.image[batch.mask]).mean() > 0.9


def test_without_the_paste_they_are_not(editor):
    batch = rows(0, 1, params={"enforce_background": False})
    edited = pictures(editor.edit_batch(batch))
    assert not np.array_equal(edited[~batch.mask], batch.image[~batch.mask])


def test_an_edit_is_the_same_in_every_place_of_a_batch_among_any_mates(editor):
    reference = pictures(editor.edit_batch(rows(0, 1, 2, 3)))
    assert np.array_equal(pictures(editor.edit_batch(rows(3, 2, 1, 0))), reference[::-1])
    for place in range(4):
        mates = [4, 5, 6, 7]
        mates[place] = 2
        assert np.array_equal(editor.edit_batch(rows(*mates))[place].image, reference[2])


def test_an_edit_does_not_depend_on_the_number_of_threads(editor):
    before = torch.get_num_threads()
    edits = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        edits.append(pictures(editor.edit_batch(rows(0, 1))))
    torch.set_num_threads(before)
    assert np.array_equal(*edits)


def test_the_seed_the_prompt_and_the_mask_decide_the_edit(editor):
    reference = editor.edit_batch(rows(0))[0].image
    assert np.array_equal(editor.edit_batch(rows(0))[0].image, reference)
    for changes in ({"seed": [7]}, {"prompt": ["at"]}, {"mask": np.ones((1, SIZE, SIZE), dtype=np.bool_)}):
        assert not np.array_equal(editor.edit_batch(rows(0, **changes))[0].image, reference)


def test_an_empty_prompt_removes_without_a_distance(editor):
    results = editor.edit_batch(rows(0, 1, prompt=["", "cat"]))
    assert results[0].metrics == {}
    assert list(results[1].metrics) == ["clip_distance"]
    free = editor.edit_batch(rows(0, 1, prompt=["cat", "cat"], params={"clip_guidance_lambda": 0, "range_lambda": 0}))
    assert np.array_equal(results[0].image, free[0].image)


def test_an_exemplar_guides_in_the_place_of_a_prompt(editor):
    red = np.zeros((2, SIZE, SIZE, 3), dtype=np.uint8)
    red[..., 0] = 255
    batch = rows(0, 1, exemplar=red, params={"guide": "exemplar"})
    results = editor.edit_batch(batch)
    assert not np.array_equal(pictures(results), pictures(editor.edit_batch(rows(0, 1))))
    other = editor.edit_batch(dataclasses.replace(batch, exemplar=255 - red))
    assert not np.array_equal(pictures(results), pictures(other))
    with pytest.raises(EditError, match="no exemplar"):
        editor.edit_batch(rows(0, params={"guide": "exemplar"}))


def test_a_rows_params_win_over_the_jobs(editor, weights):
    job = dataclasses.replace(PARAMS, aug_num=2, sampler="ddim")
    theirs = BlendedDiffusion.load(job, weights, "cpu").edit_batch(rows(0))
    ours = editor.edit_batch(rows(0, params={"aug_num": 2, "sampler": "ddim"}))
    assert np.array_equal(pictures(theirs), pictures(ours))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"lambda": 3}, "params.lambda: unknown key"),
        ({"skip_timesteps": 5}, "skip fewer"),
        ({"background_preservation_loss": True}, "needs LPIPS"),
    ],
)
def test_a_rows_impossible_params_are_a_config_error(editor, params, words):
    with pytest.raises(ConfigError, match=words):
        editor.edit_batch(rows(0, params=params))


def test_the_background_loss_runs_on_squares_alone(editor):
    params = {"background_preservation_loss": True, "lpips_lambda": 0.0, "local_clip_guided": True}
    assert pictures(editor.edit_batch(rows(0, params=params))).shape == (1, SIZE, SIZE, 3)


def test_half_precision_edits_nearly_the_same(editor):
    exact = pictures(editor.edit_batch(rows(0, 1))).astype(int)
    half = pictures(editor.edit_batch(rows(0, 1, params={"precision": "bfloat16"}))).astype(int)
    assert 0 < np.abs(exact - half).mean() < 20


def test_a_result_that_is_not_finite_is_an_edit_error_that_names_the_entry(editor, weights):
    broken = BlendedDiffusion.load(PARAMS, weights, "cpu")
    broken._texts["cat"] = torch.full((16,), float("nan"))
    with pytest.raises(EditError, match=r"not finite \(entry 1 of 3\)"):
        broken.edit_batch(rows(0, 1, 2))


def test_impossible_steps_are_refused_at_load(weights):
    with pytest.raises(ConfigError, match="skip fewer"):
        BlendedDiffusion.load(dataclasses.replace(PARAMS, skip_timesteps=5), weights, "cpu")


def test_missing_weights_are_named_at_load(weights):
    with pytest.raises(WeightsError, match="needs weights for clip"):
        BlendedDiffusion.load(PARAMS, {"unet": weights["unet"]}, "cpu")
    lpips = dataclasses.replace(PARAMS, background_preservation_loss=True)
    with pytest.raises(WeightsError, match="needs weights for lpips: name them in the job; or set lpips_lambda to 0"):
        BlendedDiffusion.load(lpips, weights, "cpu")


def test_no_weight_of_a_loaded_network_takes_a_gradient(editor):
    parameters = [*editor.networks.unet.parameters(), *editor.clip.model.parameters()]
    assert parameters
    assert not any(parameter.requires_grad for parameter in parameters)
