"""The pool's numbers name what its pictures show."""

from pathlib import Path

import numpy as np
from embedded_models.captioned import NOTHING, captioned_example, captioned_pool
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.judge import load_judge
from retouch.models.embedded.scenes import HELD_OUT, NONE, parse_prompt

POOL = captioned_pool(200, HELD_OUT)


def test_the_judge_sees_in_the_mask_what_the_caption_names() -> None:
    rng = np.random.default_rng(0)
    wanted = [parse_prompt(POOL.place_caption(rng, row)) for row in range(len(POOL))]
    seen = load_judge(SHIPPED).judge(POOL.image, POOL.mask)
    assert np.mean([a == b for a, b in zip(wanted, seen, strict=True)]) >= 0.95
    assert 10 <= wanted.count((NONE, NONE)) <= 50


def test_a_scenes_caption_names_its_objects_or_one_of_them() -> None:
    rng = np.random.default_rng(0)
    for row in range(len(POOL)):
        scene = captioned_example(HELD_OUT + row)[0].scene
        texts = [POOL.scene_caption(rng, row) for _ in range(5)]
        found = {parse_prompt(text) for text in texts}
        assert found <= ({(item.shape, item.colour) for item in scene.objects} or {(NONE, NONE)})


def test_a_picture_with_a_strangers_rim_is_no_whole_scene() -> None:
    assert 0.9 < POOL.whole.mean() < 1.0
    for row in range(40):
        drawn, _ = captioned_example(HELD_OUT + row)
        assert POOL.whole[row] == np.array_equal(drawn.image, drawn.scene.image)


def test_numbers_of_an_empty_place_are_nothing_and_a_pool_is_kept(tmp_path: Path) -> None:
    pool = captioned_pool(30, HELD_OUT, tmp_path / "pool.npz")
    again = captioned_pool(30, HELD_OUT + 999, tmp_path / "pool.npz")  # read, not drawn
    assert np.array_equal(pool.things, again.things)
    assert np.array_equal(pool.things, POOL.things[:30])
    empty = (POOL.things[:, 0] == NOTHING).all(axis=1)
    assert ((POOL.things[:, 0] == NOTHING).any(axis=1) == empty).all()
