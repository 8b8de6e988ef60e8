import math
from pathlib import Path

import numpy as np
import pytest
from embedded_models.exemplar_pools import KINDS, pair_pool, reference_pool
from embedded_models.exemplars import exemplar_task, loose_mask, other_reference, own_reference, training_pair
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.judge import load_judge
from retouch.models.embedded.scenes import COLOURS, GROUNDS, MIN_CONTRAST, edit_task

SEEDS = range(30_000_000, 30_000_030)


def test_a_seed_is_one_task_and_one_pair() -> None:
    for seed in SEEDS:
        assert np.array_equal(exemplar_task(seed).exemplar, exemplar_task(seed).exemplar)
        first, again = training_pair(seed), training_pair(seed)
        assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("target", "mask", "own"))


def test_a_task_edits_the_scene_that_a_prompt_would_edit() -> None:
    for seed in SEEDS:
        task, text = exemplar_task(seed), edit_task(seed)
        assert np.array_equal(task.scene.image, text.scene.image)
        assert np.array_equal(task.mask, text.mask)
        assert (task.shape, task.colour, task.prompt) == (text.shape, text.colour, text.prompt)


def test_an_exemplar_shows_the_wished_object_on_another_ground() -> None:
    judge = load_judge(SHIPPED)
    tasks = [exemplar_task(seed) for seed in SEEDS]
    seen = judge.judge(np.stack([task.exemplar for task in tasks]), np.ones((len(tasks), 32, 32), dtype=bool))
    right = [answer == (task.shape, task.colour) for answer, task in zip(seen, tasks, strict=True)]
    assert np.mean(right) >= 0.9  # the judge was trained on less turned ones
    for task in tasks:
        rim = np.concatenate([task.exemplar[0], task.exemplar[-1]]).astype(float)
        ground = np.array(GROUNDS[task.scene.ground])
        # Its tint and texture move a ground by 36 at most; no two grounds are nearer than twice that in each channel.
        assert (np.abs(rim - ground).max(axis=1) > 36).mean() > 0.5


def test_a_reference_is_never_drawn_on_a_ground_it_fades_into() -> None:
    rng = np.random.default_rng(0)
    for shape, colour in KINDS:
        image = other_reference(rng, shape, colour)
        corners = np.median(image[[0, 0, -1, -1], [0, -1, 0, -1]].astype(float), axis=0)
        # A ground's tint and texture take at most 61 of the distance between its name's colour and the object's.
        assert math.dist(corners, COLOURS[colour]) > MIN_CONTRAST - 61


def test_a_pairs_object_lies_in_its_mask() -> None:
    judge = load_judge(SHIPPED)
    pairs = [training_pair(seed) for seed in SEEDS]
    seen = judge.judge(np.stack([pair.target for pair in pairs]), np.stack([pair.mask for pair in pairs]))
    right = [answer == (pair.shape, pair.colour) for answer, pair in zip(seen, pairs, strict=True)]
    assert np.mean(right) >= 0.7  # a wide mask shows a small object, which the judge was not made for


def test_an_own_reference_is_of_the_box_and_not_of_the_rest() -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[10:20, 8:18] = 255
    for _ in range(20):
        reference = own_reference(rng, image, (8, 10, 18, 20))
        assert reference.shape == (32, 32, 3)
        assert reference.mean() > 0.45 * 255  # padded by 2 px of 10 a side and turned, half of it is left at least


def test_a_loose_mask_covers_its_box_and_leaves_something() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        x0, y0 = (int(at) for at in rng.integers(0, 20, size=2))
        box = (x0, y0, x0 + int(rng.integers(6, 12)), y0 + int(rng.integers(6, 12)))
        mask = loose_mask(rng, box)
        inside = mask[box[1] + 1 : box[3] - 1, box[0] + 1 : box[2] - 1]
        assert inside.all()
        assert not mask.all()


def test_a_mask_without_free_space_is_its_box() -> None:
    mask = loose_mask(np.random.default_rng(1), (0, 0, 32, 32))
    assert mask.mean() > 0.99


def test_pools_are_kept_and_drawn_again_where_their_size_differs(tmp_path: Path) -> None:
    first = pair_pool(6, 0, tmp_path / "pairs.npz")
    kept = pair_pool(6, 0, tmp_path / "pairs.npz")
    assert np.array_equal(first.target, kept.target)
    assert len(pair_pool(4, 0, tmp_path / "pairs.npz")) == 4
    assert np.array_equal(first.target[:4], pair_pool(4, 0).target)


@pytest.mark.parametrize("count", [24, 48])
def test_references_show_every_kind_equally_often(count: int) -> None:
    pool = reference_pool(count, 0)
    assert np.bincount(pool.kind, minlength=len(KINDS)).tolist() == [count // 24] * 24
