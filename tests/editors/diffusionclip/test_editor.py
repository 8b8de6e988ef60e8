"""The editor: one inversion an image however many targets, rows that share nothing, networks by role or file."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from retouch.editors.diffusionclip.editor import DiffusionClip
from retouch.editors.diffusionclip.params import Params
from retouch.errors import ConfigError, EditError, WeightsError
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.scenes import HELD_OUT, draw_scene
from retouch.plugins import Editor
from retouch.schema import Batch
from retouch.testing import check_editor
from safetensors.torch import load_file, save_file

from tests.helpers.families import SIZE, UNET, write_family, write_unet

PARAMS = Params(t_0=301, n_inv=6, n_gen=4)
PASSES = (PARAMS.n_inv - 1, PARAMS.n_gen)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def editor(weights):
    """A new one a test: it remembers what it inverted."""
    return DiffusionClip.load(PARAMS, weights, "cpu")


def rows(*chosen, **changes):
    """A batch of numbered rows; row i is the same wherever it stands."""
    images = [np.random.default_rng(i).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for i in chosen]
    batch = Batch(
        image=np.stack(images),
        mask=np.ones((len(chosen), SIZE, SIZE), dtype=np.bool_),
        prompt=["cat"] * len(chosen),
        seed=[1000 + i for i in chosen],
    )
    return dataclasses.replace(batch, **changes)


def pictures(results):
    return np.stack([result.image for result in results])


def edited(editor, batch, **params):
    return pictures(editor.edit_batch(dataclasses.replace(batch, params=params)))


class Count:
    """Passes of the editor's networks, the source's and the tuned ones'."""

    def __init__(self, editor):
        self.source, self.tuned = 0, 0
        self.editor, load = editor, editor.networks._load
        editor.networks.source.module.register_forward_hook(self._saw_source)

        def counted(path):
            network = load(path)
            network.module.register_forward_hook(self._saw_tuned)
            return network

        editor.networks._load = counted

    def _saw_source(self, *_):
        self.source += 1

    def _saw_tuned(self, *_):
        self.tuned += 1


def test_it_keeps_the_editors_contract(weights):
    assert isinstance(DiffusionClip.load(PARAMS, weights, "cpu"), Editor)
    for params in ({}, {"start": "noise", "eta": 0.5}, {"purify": 1, "purify_steps": 2}, {"sampler": "ddpm"}):
        check_editor(DiffusionClip, {"t_0": 301, "n_inv": 4, "n_gen": 3, **params}, weights)


@pytest.mark.parametrize("among", ["batches", "one batch"])
def test_targets_of_one_image_share_its_inversion(editor, among):
    count, targets = Count(editor), ("tuned", "other", "third")
    for checkpoint in targets if among == "batches" else (None,):
        editor.edit_batch(rows(0, 0, 0, checkpoint=checkpoint, seed=[1, 2, 3], prompt=["a", "b", "c"]))
    assert (count.source, count.tuned) == (PASSES[0], PASSES[1] * (3 if among == "batches" else 1))


def test_other_settings_of_the_generation_need_no_other_inversion(editor):
    count = Count(editor)
    for params in ({"ratio": 0.5}, {"n_gen": 3}, {"eta": 1.0}, {"sampler": "ddpm"}):
        edited(editor, rows(0, 1), **params)
    assert count.source == PASSES[0] + PASSES[1]  # the inversion, and the source's half of ratio 0.5
    for params, passes in (({"t_0": 300}, PASSES[0]), ({"n_inv": 5}, 4), ({"precision": "bfloat16"}, PASSES[0])):
        count.source = 0
        edited(editor, rows(0, 1), **params)
        assert count.source == passes, params


def test_only_images_that_are_new_are_inverted_and_the_result_is_the_same(editor, weights):
    editor.edit_batch(rows(0, 1, 2, 3))
    count = Count(editor)
    known, fresh = editor.edit_batch(rows(3, 2, 1, 0)), DiffusionClip.load(PARAMS, weights, "cpu")
    assert count.source == 0
    assert np.array_equal(pictures(known), pictures(fresh.edit_batch(rows(3, 2, 1, 0))))
    mixed = editor.edit_batch(rows(3, 9, 1, 8))
    assert count.source == PASSES[0]
    assert np.array_equal(pictures(mixed), pictures(fresh.edit_batch(rows(3, 9, 1, 8))))


@pytest.mark.parametrize(
    "params", [{}, {"start": "noise", "eta": 0.5}, {"purify": 2, "purify_steps": 2}, {"optimise": 2, "n_train": 2}]
)
def test_an_edit_is_the_same_in_every_place_of_a_batch_among_any_mates(weights, params):
    editor = DiffusionClip.load(dataclasses.replace(PARAMS, **params), weights, "cpu")
    reference = pictures(editor.edit_batch(rows(0, 1, 2, 3)))
    for order in ((3, 2, 1, 0), (4, 2, 5, 0)):
        fresh = DiffusionClip.load(dataclasses.replace(PARAMS, **params), weights, "cpu")
        for place, result in enumerate(fresh.edit_batch(rows(*order))):
            if order[place] < 4:
                assert np.array_equal(result.image, reference[order[place]])


def test_ratio_nought_is_the_reconstruction_and_needs_no_tuned_network(editor, weights, tmp_path):
    copy = {"unet": weights["unet"], "tuned": shutil.copy(weights["unet"], tmp_path / "same.safetensors")}
    shutil.copy(Path(weights["unet"]).with_suffix(".json"), tmp_path / "same.json")
    reconstruction = edited(DiffusionClip.load(PARAMS, copy, "cpu"), rows(0, 1))
    assert np.array_equal(edited(editor, rows(0, 1), ratio=0), reconstruction)
    alone = DiffusionClip.load(PARAMS, {"unet": weights["unet"]}, "cpu")
    assert np.array_equal(edited(alone, rows(0, 1), ratio=0), reconstruction)
    assert not np.array_equal(edited(editor, rows(0, 1)), reconstruction)


def test_ratio_one_calls_the_tuned_network_alone_and_a_hybrid_of_it_is_the_same(editor):
    full = edited(editor, rows(0, 1))
    count = Count(editor)
    for params in ({"ratio": 1.0}, {"hybrid": {0: [1]}}, {"hybrid": {"300": [2.0], "0": [0.5]}}):
        assert np.array_equal(edited(editor, rows(0, 1), **params), full)
    assert count.source == 0


def test_a_degree_between_lies_between_and_one_beyond_goes_further(editor):
    none, half, full, more = (edited(editor, rows(0, 1), ratio=r).astype(int) for r in (0, 0.5, 1, 1.5))
    moved = [np.abs(other - none).mean() for other in (half, full, more)]
    assert moved == sorted(moved)
    assert moved[0] > 0


def test_a_hybrid_is_none_of_its_networks(editor):
    both = edited(editor, rows(0), networks=["tuned", "other"], hybrid={"0": [1, 1]})
    singles = [edited(editor, rows(0), networks=[name]) for name in ("tuned", "other")]
    assert not any(np.array_equal(both, single) for single in singles)
    assert np.array_equal(edited(editor, rows(0), networks=["tuned", "other"], hybrid={"0": [0, 1]}), singles[1])


def test_a_checkpoint_is_a_role_or_a_file(editor, weights):
    by_role = pictures(editor.edit_batch(rows(0, 1, checkpoint="other")))
    assert np.array_equal(pictures(editor.edit_batch(rows(0, 1, checkpoint=weights["other"]))), by_role)
    assert np.array_equal(edited(editor, rows(0, 1), networks=["other"]), by_role)
    assert not np.array_equal(pictures(editor.edit_batch(rows(0, 1))), by_role)


def test_a_rows_params_win_over_the_jobs(editor, weights):
    job = dataclasses.replace(PARAMS, ratio=0.5, n_gen=3)
    theirs = DiffusionClip.load(job, weights, "cpu").edit_batch(rows(0))
    assert np.array_equal(pictures(theirs), edited(editor, rows(0), ratio=0.5, n_gen=3))


def test_the_seed_decides_where_noise_is_drawn_and_nowhere_else(editor):
    def differs(**params):
        return not np.array_equal(edited(editor, rows(0), **params), edited(editor, rows(0, seed=[7]), **params))

    assert not differs()
    for params in ({"eta": 0.5}, {"sampler": "ddpm"}, {"start": "noise"}, {"purify": 1}):
        assert differs(**params), params
        assert np.array_equal(edited(editor, rows(0), **params), edited(editor, rows(0), **params)), params


def test_repeats_go_on_from_the_result_before(editor):
    once, twice = (edited(editor, rows(0), start="noise", repeats=n) for n in (1, 2))
    assert not np.array_equal(once, twice)


def test_an_optimised_latent_follows_the_prompt_without_a_tuned_network(weights):
    alone = {role: weights[role] for role in ("unet", "clip")}
    editor = DiffusionClip.load(dataclasses.replace(PARAMS, optimise=2, n_train=2, latent_lr=0.1), alone, "cpu")
    cat, red = (pictures(editor.edit_batch(rows(0, prompt=[text]))) for text in ("cat", "red"))
    assert not np.array_equal(cat, red)
    with pytest.raises(EditError, match=r"no prompt to go towards \(entry 1 of 2\)"):
        editor.edit_batch(rows(0, 1, prompt=["cat", " "]))
    with pytest.raises(WeightsError, match=r"'clip'.*set optimise to 0"):
        DiffusionClip.load(editor.params, {"unet": weights["unet"]}, "cpu")


def test_a_network_that_is_not_there_is_named_with_what_would_do(editor, weights):
    alone = DiffusionClip.load(PARAMS, {"unet": weights["unet"]}, "cpu")
    with pytest.raises(WeightsError, match=r"no weights for 'tuned': the job names unet; add .* give the row a ch"):
        alone.edit_batch(rows(0))
    with pytest.raises(WeightsError, match="no weights for 'nobody'"):
        editor.edit_batch(rows(0, checkpoint="nobody"))
    with pytest.raises(WeightsError, match="no weights for 'nobody'"):
        DiffusionClip.load(dataclasses.replace(PARAMS, networks=("nobody",)), weights, "cpu")
    with pytest.raises(WeightsError, match="no weights for unet, the source network"):
        DiffusionClip.load(PARAMS, {"tuned": weights["tuned"]}, "cpu")


def test_a_network_of_another_size_is_no_tuned_copy(editor, tmp_path):
    config = {**UNET, "image_size": 2 * SIZE}
    path = write_unet(tmp_path / "large.safetensors", config=config)
    with pytest.raises(WeightsError, match=r"no fine-tuned copy of the source network: 32 px, .* has 16 px"):
        editor.edit_batch(rows(0, checkpoint=path))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"strength": 3}, "params.strength: unknown key"),
        ({"t_0": 1000}, "t_0 is 1000"),
        ({"networks": ["tuned", "other"]}, "give hybrid"),
        ({"networks": ["tuned", "other"], "hybrid": {"0": [1]}}, "1 weights at threshold 0 for 2"),
    ],
)
def test_a_rows_impossible_params_are_a_config_error(editor, params, words):
    with pytest.raises(ConfigError, match=words):
        edited(editor, rows(0), **params)


def test_a_checkpoint_beside_a_hybrid_of_several_is_refused_with_the_threshold(editor):
    params = {"networks": ["tuned", "other"], "hybrid": {"0": [1, 1]}}
    with pytest.raises(ConfigError, match=r"2 weights at threshold 0 for 1 network\(s\)"):
        editor.edit_batch(rows(0, checkpoint="third", params=params))


def test_a_result_that_is_not_finite_names_its_entry_and_is_not_remembered(weights, tmp_path):
    state = load_file(weights["unet"])
    broken = {name: torch.full_like(value, float("nan")) for name, value in state.items()}
    save_file(broken, tmp_path / "nan.safetensors")
    (tmp_path / "nan.json").write_text(json.dumps(UNET))
    editor = DiffusionClip.load(PARAMS, {**weights, "unet": str(tmp_path / "nan.safetensors")}, "cpu")
    editor.memory = Shelf()
    with pytest.raises(EditError, match=r"not finite \(entry 0, 1 of 2\)"):
        editor.edit_batch(rows(0, 1))
    assert not editor.memory.held


class Shelf:
    """A memory in a dictionary."""

    def __init__(self):
        self.held = {}

    def get(self, name):
        return self.held.get(name)

    def put(self, name, latent):
        self.held[name] = latent


def test_a_second_editor_with_the_same_memory_inverts_nothing(weights):
    shelf, results = Shelf(), []
    for passes in (PASSES[0], 0):
        editor = DiffusionClip.load(PARAMS, weights, "cpu")
        editor.memory, count = shelf, Count(editor)
        results.append(pictures(editor.edit_batch(rows(0, 1, 0))))
        assert count.source == passes
    assert np.array_equal(*results)
    assert len(shelf.held) == 2


def test_half_precision_edits_nearly_the_same(editor):
    exact = edited(editor, rows(0, 1)).astype(int)
    half = edited(editor, rows(0, 1), precision="bfloat16").astype(int)
    assert 0 < np.abs(exact - half).mean() < 20


def test_an_edit_does_not_depend_on_the_number_of_threads(weights):
    before, edits = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        edits.append(pictures(DiffusionClip.load(PARAMS, weights, "cpu").edit_batch(rows(0, 1))))
    torch.set_num_threads(before)
    assert np.array_equal(*edits)


@pytest.fixture(scope="module")
def scenes():
    images = np.stack([draw_scene(HELD_OUT + 2_000_000 + seed).image for seed in range(2)])
    size = images.shape[1]
    return Batch(images, np.ones((2, size, size), dtype=np.bool_), [""] * 2, range(2))


def test_drawings_come_back_from_their_latents_and_more_points_bring_them_closer(scenes):
    errors = []
    for n in (6, 24):
        params = Params(t_0=401, n_inv=n, n_gen=n, ratio=0)
        editor = DiffusionClip.load(params, {"unet": str(SHIPPED / "unet.safetensors")}, "cpu")
        back = pictures(editor.edit_batch(scenes)).astype(int)
        errors.append(np.abs(back - scenes.image.astype(int)).mean())
    assert errors[1] < errors[0]
    assert errors[1] < 1  # of 255 levels; 0.6 when this was written
