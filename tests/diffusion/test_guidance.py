"""Losses against the original code's numbers; gradients that belong to their entry alone."""

import math

import pytest
import torch
from retouch.diffusion.guidance import (
    blend_input,
    by_gradient,
    by_x0_gradient,
    cosine_distance,
    only_for,
    range_loss,
    spherical_distance,
    square_error,
)
from retouch.diffusion.sampling import Prediction, predict_x0
from retouch.diffusion.schedule import from_betas, named, respace
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from tests.helpers.golden_set import assert_within, golden

TENSORS, ENTRY = golden("blended_pieces.safetensors")
SCHEDULE = respace(named("linear"), 50)


def check(name, got):
    assert_within(got, TENSORS[f"out.{name}"], ENTRY["tolerance"]["all"], name)


def test_distances_equal_the_original_codes():
    check("d_clip_loss", spherical_distance(TENSORS["in.image_embeds"], TENSORS["in.text_embed"]))
    check("d_clip_loss_cosine", cosine_distance(TENSORS["in.image_embeds"], TENSORS["in.text_embed"]))


def test_the_range_loss_equals_the_original_codes():
    check("range_loss", range_loss(TENSORS["in.x_range"]))


def test_the_square_error_outside_the_mask_is_the_original_codes_times_the_batch():
    outside = TENSORS["in.x0"] * (1 - TENSORS["in.mask"])
    check("mse_background", square_error(outside, TENSORS["in.init_image"]).mean())


@pytest.mark.parametrize("name", sorted(name for name in TENSORS if name.startswith("in.pool")))
def test_the_pooling_of_clips_input_equals_the_original_codes(name):
    ref = name.removeprefix("in.")
    size = int(ref.partition("_to")[2])
    check(ref, F.adaptive_avg_pool2d(TENSORS[name], size))


@pytest.mark.parametrize("k", range(len(TENSORS["in.fac"])))
def test_the_blend_input_equals_the_original_codes(k):
    with_this_factor = from_betas(TENSORS["in.fac"][k : k + 1].square().numpy())
    check(f"x_in_{k}", blend_input(with_this_factor, TENSORS["in.xt"], TENSORS["in.x0"], 0))


@pytest.mark.parametrize(
    ("cos", "distance"), [(0.3, 0.8015), (0.25, 0.8687), (0.2, 0.9377), (0.1, 1.0814), (0, 1.2337)]
)
def test_the_spherical_distance_has_the_published_values(cos, distance):
    u = torch.tensor([3.0, 0.0])
    v = torch.tensor([cos, math.sqrt(1 - cos**2)]) * 7
    assert spherical_distance(u, v).item() == pytest.approx(distance, abs=5e-5)


def test_opposite_embeddings_have_a_finite_distance():
    u = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    assert spherical_distance(u, -u) == pytest.approx(math.pi**2 / 2, rel=1e-2)


def denoise(x_t, t):
    return Prediction(torch.tanh(x_t) * 0.5, log_variance=x_t * 0 - 3)


def loss(x_t, x0, t):
    return (x0**3 + 0.5 * x_t**2).flatten(1).sum(dim=1)


def images():
    return torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_the_gradient_through_the_network_is_that_of_the_loss():
    x_t, t = images().double(), 20
    prediction = by_gradient(denoise, loss, SCHEDULE)(x_t, t)

    def total(x):
        return loss(x, predict_x0(SCHEDULE, x, t, denoise(x, t).eps), t).sum()

    step = 1e-6 * torch.randn_like(x_t)
    slope = (total(x_t + step) - total(x_t - step)) / 2
    assert -(prediction.grad * step).sum().item() == pytest.approx(slope.item(), rel=1e-5)
    assert torch.equal(prediction.eps, denoise(x_t, t).eps)
    assert not any(value.requires_grad for value in (prediction.eps, prediction.grad, prediction.log_variance))


def test_the_gradient_on_x0_leaves_the_network_and_x_t_out():
    x_t, t = images(), 20
    x0 = predict_x0(SCHEDULE, x_t, t, denoise(x_t, t).eps)
    prediction = by_x0_gradient(denoise, loss, SCHEDULE)(x_t, t)
    torch.testing.assert_close(prediction.grad, -3 * x0**2)
    assert torch.equal(prediction.eps, denoise(x_t, t).eps)


def test_guidance_works_inside_no_grad_and_leaves_no_graph():
    with torch.no_grad():
        prediction = by_gradient(denoise, loss, SCHEDULE)(images(), 3)
    assert prediction.grad.abs().sum() > 0
    assert prediction.eps.grad_fn is None


@pytest.mark.parametrize("wrap", [by_gradient, by_x0_gradient])
def test_an_entrys_gradient_does_not_depend_on_its_batch_mates(wrap):
    x = images()
    guided = wrap(denoise, loss, SCHEDULE)
    torch.testing.assert_close(guided(x, 9).grad[1], guided(x[1:2], 9).grad[0], rtol=1e-6, atol=1e-6)


def test_entries_that_are_not_guided_have_no_gradient_even_where_the_loss_breaks():
    def breaks(x_t, x0, t):
        return loss(x_t, x0, t) * torch.tensor([1.0, float("nan"), 1.0])

    guided = only_for(by_gradient(denoise, breaks, SCHEDULE), torch.tensor([True, False, True]))(images(), 9)
    assert torch.equal(guided.grad[1], torch.zeros(3, 4, 4))
    assert guided.grad[[0, 2]].isfinite().all()
    assert guided.grad[[0, 2]].abs().sum() > 0


def test_a_denoiser_without_guidance_passes_through():
    assert only_for(denoise, torch.tensor([True]))(images(), 1).grad is None
