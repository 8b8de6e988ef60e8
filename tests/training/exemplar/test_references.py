"""References are cut out where the box is and changed by their own generator."""

from __future__ import annotations

import numpy as np
import pytest
from retouch.training.exemplar import references
from retouch.training.exemplar.references import augmented, cropped, warp

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_a_crop_at_its_own_size_is_the_pixels_of_the_box() -> None:
    np.testing.assert_array_equal(cropped(IMAGE, (10, 5, 30, 25), 20), IMAGE[5:25, 10:30])


def test_a_crop_of_another_shape_is_squashed() -> None:
    assert cropped(IMAGE, (0, 0, 60, 10), 24).shape == (24, 24, 3)


def test_the_same_generator_changes_a_reference_in_the_same_way_and_another_in_another() -> None:
    reference = cropped(IMAGE, (0, 0, 40, 40), 32)
    one, same, other = (augmented(reference, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_half_of_all_references_are_flipped_and_one_in_six_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "TURN", 0.0)
    monkeypatch.setattr(references, "BLUR", 0.0)
    monkeypatch.setattr(references, "WARP", 0.0)
    reference = cropped(IMAGE, (0, 0, 40, 40), 16)
    made = [augmented(reference, np.random.default_rng(seed)) for seed in range(400)]
    flipped = sum(np.array_equal(one, reference[:, ::-1]) for one in made)
    plain = sum(np.array_equal(one, reference) for one in made)
    assert flipped + plain == 400
    assert 150 < flipped < 250


def test_a_warp_moves_its_points_as_far_as_asked_and_no_warp_moves_nothing() -> None:
    np.testing.assert_allclose(warp(224, np.zeros((3, 2))), [[1, 0, 0], [0, 1, 0]], atol=1e-6)
    moves = np.array([[50.0, -50.0], [0, 0], [20, 10]])
    corner = np.array([112 + 74, 112 + 74, 1.0])
    np.testing.assert_allclose(warp(224, moves) @ corner, corner[:2] + moves[0], atol=1e-3)


def test_what_comes_in_from_outside_is_mirrored_and_never_black(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURN", "WARP"):
        monkeypatch.setattr(references, name, 1.0)
    bright = np.full((32, 32, 3), 200, np.uint8)
    for seed in range(20):
        assert augmented(bright, np.random.default_rng(seed)).min() >= 199
