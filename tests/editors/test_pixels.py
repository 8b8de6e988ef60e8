"""The border between uint8 and float."""

import numpy as np
import torch

from pipeline.editors.pixels import from_uint8, mask_from_bool, to_uint8


def test_every_level_survives_the_way_in_and_out():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    x = from_uint8(levels, "cpu")
    assert (x.min().item(), x.max().item(), x.dtype, tuple(x.shape)) == (-1.0, 1.0, torch.float32, (1, 3, 16, 16))
    assert np.array_equal(to_uint8(x), levels)


def test_levels_are_the_nearest_with_ties_to_even_and_clamped():
    x = torch.tensor([-3.0, -0.999, 0.0, 0.999, 7.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_uint8(x)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_a_masks_true_is_one():
    mask = np.array([[[True, False]]])
    assert mask_from_bool(mask, "cpu").tolist() == [[[[1.0, 0.0]]]]
