import math

import numpy as np
import pytest
from retouch.models.embedded.scenes import (
    COLOURS,
    GROUNDS,
    MIN_CONTRAST,
    NONE,
    SHAPES,
    Ground,
    bounding_box,
    draw_scene,
    edit_task,
    object_prompt,
    parse_prompt,
    render,
    visible_colours,
)

SEEDS = range(20_000_000, 20_000_040)


def test_a_seed_is_one_scene() -> None:
    for seed in SEEDS:
        first, again = draw_scene(seed), draw_scene(seed)
        assert np.array_equal(first.image, again.image)
        assert first.caption == again.caption


def test_two_seeds_are_two_scenes() -> None:
    assert len({draw_scene(seed).image.tobytes() for seed in SEEDS}) == len(SEEDS)


def test_a_larger_side_shows_the_same_scene() -> None:
    for seed in SEEDS:
        small, large = draw_scene(seed, 32), draw_scene(seed, 96)
        assert large.image.shape == (96, 96, 3)
        assert large.caption == small.caption
        reduced = large.image.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
        # Edges fall on other subpixels: a few grey levels on average, not a picture of something else.
        assert np.abs(reduced - small.image).mean() < 6


def test_a_mask_covers_all_that_its_object_changes() -> None:
    for seed in SEEDS:
        scene = draw_scene(seed, count=1)
        (item,) = scene.objects
        x0, y0, x1, y1 = item.box
        assert item.box == bounding_box(item.mask)
        assert item.mask[y0:y1, x0:x1].sum() == item.mask.sum()
        near = np.abs(scene.image[item.mask].astype(int) - COLOURS[item.colour]).max(axis=1) <= 9
        assert near.mean() > 0.5  # the rest are edge pixels, mixed with the ground
        outside = scene.image[~item.mask].astype(int)
        # The ground: its colour, its tint (8) and its texture (27 at most).
        assert np.abs(outside - GROUNDS[scene.ground]).max() <= 36


def test_shapes_do_not_touch() -> None:
    for seed in SEEDS:
        objects = draw_scene(seed, count=2).objects
        assert sum(item.mask.astype(int) for item in objects).max() <= 1


@pytest.mark.parametrize("ground", GROUNDS)
def test_colours_stand_out_from_their_ground(ground: str) -> None:
    names = visible_colours(Ground(ground, "plain", GROUNDS[ground], 0.0, 0.2, 10.0))
    assert len(names) >= 3
    assert all(math.dist(COLOURS[name], GROUNDS[ground]) >= MIN_CONTRAST for name in names)


def test_an_edit_asks_for_what_is_not_there() -> None:
    for seed in SEEDS:
        task = edit_task(seed)
        assert 150 <= task.mask.sum() <= 520  # about 13 to 22 px a side
        assert parse_prompt(task.prompt) == (task.shape, task.colour)
        for item in task.scene.objects:
            if (item.mask & task.mask).any():
                assert item.shape != task.shape
                assert item.colour != task.colour


def test_an_edits_mask_is_the_same_place_at_any_size() -> None:
    for seed in SEEDS:
        small, large = edit_task(seed, 32), edit_task(seed, 96)
        assert large.prompt == small.prompt
        assert np.abs(np.array(bounding_box(large.mask)) / 3 - bounding_box(small.mask)).max() <= 1


def test_every_prompt_is_read_back() -> None:
    for shape in SHAPES:
        for colour in COLOURS:
            assert parse_prompt(object_prompt(shape, colour)) == (shape, colour)
    assert parse_prompt("a striped gray ground") == (NONE, NONE)


def test_a_shape_outside_the_image_is_not_in_the_scene() -> None:
    from retouch.models.embedded.scenes import Placed

    ground = Ground("gray", "plain", GROUNDS["gray"], 0.0, 0.2, 10.0)
    scene = render(ground, [Placed("circle", "red", COLOURS["red"], (2.0, 2.0), 0.2)])
    assert scene.objects == ()
