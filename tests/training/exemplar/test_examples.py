"""One image to one training example."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from retouch.jobs.train_params import TrainParams
from retouch.training.exemplar.examples import NoBox, Sizes, make_example

IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
SIZES = Sizes(32, 24)


def made(seed: int, **params: object) -> object:
    return make_example(IMAGE, [[20, 10, 44, 34]], TrainParams(**params), SIZES, np.random.default_rng(seed))


def test_an_example_has_the_networks_sizes_and_ranges() -> None:
    for seed in range(20):
        example = made(seed)
        assert (example.target.shape, example.keep.shape, example.reference.shape) == (
            (3, 32, 32),
            (1, 32, 32),
            (3, 24, 24),
        )
        assert -1 <= example.target.min() < 0 < example.target.max() <= 1
        assert example.keep.min() == 0
        assert 0 <= example.reference.min() < example.reference.max() <= 1
        assert 0.02 < (example.keep == 0).float().mean() < 0.95


def test_an_example_is_decided_by_its_generator() -> None:
    one, same, other = made(1), made(1), made(2)
    assert all(torch.equal(getattr(one, name), getattr(same, name)) for name in ("target", "keep", "reference"))
    assert not torch.equal(one.keep, other.keep)


def test_without_augmentation_the_reference_is_the_box_itself() -> None:
    example = made(1, augmentation=False, reference_pad=0)
    np.testing.assert_array_equal((example.reference * 255).round().permute(1, 2, 0), IMAGE[10:34, 20:44])


def test_holes_are_boxes_or_free_shapes_as_often_as_asked() -> None:
    def is_box(keep: torch.Tensor) -> bool:
        hole = keep[0] < 1
        return bool(hole[hole.any(1)][:, hole.any(0)].all())

    assert all(is_box(made(seed, arbitrary_mask_percent=0.0).keep) for seed in range(30))
    assert not any(is_box(made(seed, arbitrary_mask_percent=1.0).keep) for seed in range(30))


def test_an_image_without_a_box_of_the_right_size_is_no_example() -> None:
    with pytest.raises(NoBox, match="none of 1 boxes has 2% to 80%"):
        make_example(IMAGE, [[0, 0, 2, 2]], TrainParams(), SIZES, np.random.default_rng(0))
