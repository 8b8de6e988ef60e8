"""Views of an image: their geometry, whose randomness they use, and that gradients pass."""

import math

import pytest
import torch
from kornia.geometry.transform import get_perspective_transform, warp_perspective
from retouch.diffusion.augment import Augmentation, affine_sources, extended, homography, perspective_sources, warp
from retouch.diffusion.noise import Noise

SIZE = (20, 28)


def images(count=2, size=SIZE):
    return torch.rand((count, 3, *size), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_first_view_is_the_image_itself():
    x = images()
    views = extended(x, 5, Noise([1, 2]), Augmentation())
    assert tuple(views.shape) == (10, 3, *SIZE)
    assert torch.equal(views[[0, 5]], x)


def test_one_view_draws_nothing_and_changes_nothing():
    x = images()
    assert extended(x, 1, None, Augmentation()) is x


def test_an_entrys_views_do_not_depend_on_its_batch_mates():
    x = images(3)
    together = extended(x, 4, Noise([1, 2, 3]), Augmentation())
    alone = extended(x[1:2], 4, Noise([2]), Augmentation())
    assert torch.equal(together[4:8], alone)


def test_views_differ_from_each_other_and_from_step_to_step():
    noise = Noise([1])
    always = Augmentation(affine=1.0, perspective=1.0)
    first, second = (extended(images(1), 3, noise, always) for _ in range(2))
    assert not torch.equal(first[1], first[2])
    assert not torch.equal(first[1], second[1])


def test_gradients_reach_the_image_through_every_view():
    x = images(1).requires_grad_()
    views = extended(x, 3, Noise([1]), Augmentation(affine=1.0, perspective=1.0))
    for view in views:
        (grad,) = torch.autograd.grad(view.sum(), x, retain_graph=True)
        assert grad.abs().sum() > 0


def test_a_warp_is_kornias_with_the_inverse_matrix():
    torch.manual_seed(0)
    x = images(4)
    points = perspective_sources(torch.rand(4, 9, dtype=torch.float64), SIZE, Augmentation(perspective=1.0))
    for sources, padding in ((points, "zeros"), (affine(torch.rand(4, 4, dtype=torch.float64)), "border")):
        forward = torch.linalg.inv(sources).float()
        theirs = warp_perspective(x, forward, SIZE, padding_mode=padding, align_corners=True)
        torch.testing.assert_close(warp(x, sources, padding), theirs, rtol=0, atol=5e-5)


def affine(numbers, **ranges):
    return affine_sources(numbers, SIZE, Augmentation(affine=1.0, **ranges))


def test_a_homography_takes_points_to_their_images():
    here = torch.tensor([[[1.0, 2], [30, 4], [28, 25], [3, 20]]], dtype=torch.float64)
    there = torch.tensor([[0.0, 0], [27, 0], [27, 19], [0, 19]], dtype=torch.float64)
    matrix = homography(here, there)
    mapped = torch.cat([here, torch.ones(1, 4, 1, dtype=torch.float64)], dim=-1) @ matrix.mT
    torch.testing.assert_close(mapped[..., :2] / mapped[..., 2:], there[None])
    kornias = get_perspective_transform(here, there[None])
    torch.testing.assert_close(matrix, kornias)


def test_rotation_is_about_the_centre_and_within_its_range():
    width, height = SIZE[1], SIZE[0]
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2, 1], dtype=torch.float64)
    matrix = affine(torch.tensor([0.0, 1.0, 0.5, 0.5], dtype=torch.float64))
    torch.testing.assert_close(matrix @ centre, centre)
    assert math.degrees(math.acos(matrix[0, 0])) == pytest.approx(15.0)


@pytest.mark.parametrize(("translate", "moved"), [("both", (2.8, 2.0)), ("vertical", (0.0, 2.0))])
def test_translation_moves_along_both_axes_or_as_published(translate, moved):
    matrix = affine(torch.tensor([0.0, 0.5, 0.0, 0.0], dtype=torch.float64), translate=translate)
    assert matrix[:2, 2].tolist() == pytest.approx(moved)


def test_views_that_do_not_fire_are_the_image():
    x = images(1)
    never = Augmentation(affine=0.0, perspective=0.0)
    torch.testing.assert_close(extended(x, 3, Noise([1]), never), x.expand(3, -1, -1, -1), rtol=0, atol=1e-4)


def test_perspective_pads_with_grey_and_affine_with_the_border():
    white = torch.ones(64, 1, 32, 32)
    noise = torch.rand(64, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both = Augmentation(affine=1.0, perspective=1.0)
    turned = warp(white, affine_sources(noise[:, :4], (32, 32), both), "border")
    torch.testing.assert_close(turned, white)
    padded = warp(white, perspective_sources(noise[:, 4:], (32, 32), both), "zeros")
    assert padded.min() == 0
    assert (padded < 0.5).float().mean().item() == pytest.approx(0.58, abs=0.05)  # measured in the published setting


def test_each_augmentation_fires_as_often_as_it_should():
    numbers = torch.rand(4000, 13, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    identity = torch.eye(3, dtype=torch.float64)
    for sources in (
        affine_sources(numbers[:, :4], SIZE, Augmentation()),
        perspective_sources(numbers[:, 4:], SIZE, Augmentation()),
    ):
        fired = ((sources - identity).abs().amax(dim=(1, 2)) > 1e-9).double().mean()
        assert fired.item() == pytest.approx(0.7, abs=0.03)
