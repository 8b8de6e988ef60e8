"""Noise belongs to the request."""

import pytest
import torch
from retouch.diffusion.noise import Noise, derive_seed

SHAPE = (3, 4, 5)


def draw_all(noise):
    return [noise.normal("start", SHAPE), noise.uniform("augmentation", (7,)), noise.integers("class", 1000)]


def test_an_entrys_draws_do_not_depend_on_its_batch_mates():
    together = [draw_all(noise) for noise in [Noise([5, 11, 7])] for _ in range(3)]
    alone = [draw_all(noise) for noise in [Noise([11])] for _ in range(3)]
    swapped = [draw_all(noise) for noise in [Noise([3, 3, 2, 11])] for _ in range(3)]
    for ours, mine, moved in zip(together, alone, swapped, strict=True):
        for a, b, c in zip(ours, mine, moved, strict=True):
            assert torch.equal(a[1], b[0])
            assert torch.equal(a[1], c[3])


def test_a_stream_that_is_not_drawn_from_leaves_the_others_as_they_were():
    with_background, without = Noise([1, 2]), Noise([1, 2])
    for _ in range(3):
        with_background.normal("background", SHAPE)
        assert torch.equal(with_background.normal("step", SHAPE), without.normal("step", SHAPE))


def test_streams_and_successive_draws_differ():
    noise = Noise([1])
    first, second, other = noise.normal("a", SHAPE), noise.normal("a", SHAPE), noise.normal("b", SHAPE)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_equal_seeds_give_equal_noise_and_others_do_not():
    drawn = Noise([4, 4, 5]).normal("start", SHAPE)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_draws_have_the_shapes_types_and_ranges_that_they_say():
    noise = Noise([1, 2])
    normal, uniform = noise.normal("n", (3, 64, 64)), noise.uniform("u", (500,))
    assert (normal.dtype, tuple(normal.shape)) == (torch.float32, (2, 3, 64, 64))
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    assert (uniform.dtype, tuple(uniform.shape)) == (torch.float64, (2, 500))
    assert 0 <= uniform.min() < uniform.max() < 1
    classes = torch.stack([noise.integers("c", 3) for _ in range(50)])
    assert set(classes.flatten().tolist()) == {0, 1, 2}


def test_the_global_generator_plays_no_part():
    torch.manual_seed(0)
    one = Noise([9]).normal("start", SHAPE)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(one, Noise([9]).normal("start", SHAPE))
    assert torch.equal(before, torch.get_rng_state())


def test_derived_seeds_are_the_same_everywhere_and_tell_their_parts_apart():
    assert derive_seed(0, "start") == 472583951478163530
    assert (
        len({derive_seed(1, "a", 23), derive_seed(1, "a2", 3), derive_seed(1, "a23"), derive_seed(1, "a", 2, 3)}) == 4
    )
    assert 0 <= derive_seed(2**63 - 1, "x") < 2**63
