"""The border between uint8 and float."""

import numpy as np
import pytest
import torch
from retouch.editors.pixels import from_uint8, mask_from_bool, refuse_faults, to_uint8
from retouch.errors import EditError


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


def test_what_only_a_fault_gives_is_refused_with_the_entries_that_have_it():
    source = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    refuse_faults(source, source, "mend it")
    for value in (float("nan"), float("inf"), -float("inf")):
        broken = source.clone()
        broken[1, 2, 3, 0] = value
        with pytest.raises(EditError, match=r"not finite \(entry 1 of 3\); mend it"):
            refuse_faults(broken, source, "mend it")
    flat = source.clone()
    flat[0], flat[2] = torch.tensor([0.1, 0.2, 0.3])[:, None, None], 5.0
    with pytest.raises(EditError, match=r"one colour all over \(entry 0, 2 of 3\)"):
        refuse_faults(flat, source, "mend it")


def test_one_colour_is_no_fault_where_the_source_has_one_or_a_single_number_differs():
    source = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    refuse_faults(torch.zeros_like(source), torch.full_like(source, 0.5), "")
    nearly = torch.zeros_like(source)
    nearly[0, 0, 0, 0] = 1e-6
    refuse_faults(nearly, source, "")
