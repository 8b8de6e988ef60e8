"""DiffusionCLIP's losses against the original code's numbers, and what must hold of them for any embedding."""

from __future__ import annotations

from math import log

import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retouch.diffusion.clip_losses import (
    MIN_ARGUMENT,
    absolute_error,
    clip_view,
    direction_loss,
    global_loss,
    negative_log,
    text_direction,
)
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torchvision.transforms.v2 import functional as tv

from tests.helpers.golden_set import assert_within, golden

TENSORS, ENTRY = golden("diffusionclip_loss.safetensors")
VIEW, VIEW_ENTRY = golden("diffusionclip_clip_preprocess.safetensors")


def check(name: str, got: Tensor) -> None:
    assert_within(got, TENSORS[f"out.{name}"], ENTRY["tolerance"]["all"], name)


def golden_direction() -> Tensor:
    return text_direction(TENSORS["in.text_src"], TENSORS["in.text_trg"])


def golden_losses(edited: Tensor | None = None) -> Tensor:
    edited = TENSORS["in.img_edit"] if edited is None else edited
    return direction_loss(golden_direction(), TENSORS["in.img_src"], edited)


def embeddings(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def test_the_text_direction_equals_the_original_codes() -> None:
    assert len(TENSORS["in.text_src"]) == ENTRY["config"]["n_templates"]
    check("text_direction", golden_direction())


def test_each_entrys_direction_loss_and_their_mean_equal_the_original_codes() -> None:
    losses = golden_losses()
    for i, loss in enumerate(losses):
        check(f"direction_loss_sample{i}", loss)
    check("direction_loss", losses.mean())


def test_the_total_of_the_original_and_its_gradients_come_out_of_the_pieces() -> None:
    edited, x = TENSORS["in.img_edit"].clone().requires_grad_(), TENSORS["in.x"].clone().requires_grad_()
    loss_clip = negative_log(golden_losses(edited).mean())
    loss_l1 = absolute_error(x, TENSORS["in.x0"]).mean()
    total = ENTRY["config"]["clip_loss_w"] * loss_clip + ENTRY["config"]["l1_loss_w"] * loss_l1
    total.backward()
    check("loss_clip", loss_clip)
    check("loss_l1", loss_l1)
    check("total", total)
    assert edited.grad is not None
    assert x.grad is not None
    check("grad_img_edit", edited.grad)
    check("grad_x", x.grad)


@pytest.mark.parametrize("antialias", [False, True])
def test_clips_view_of_an_image_equals_the_original_codes(antialias: bool) -> None:
    view = clip_view(VIEW["in.x"], VIEW_ENTRY["config"]["n_px"], antialias)
    mean, std = (torch.tensor(n).view(3, 1, 1) for n in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    ref = VIEW[f"out.antialias_{str(antialias).lower()}"]
    assert_within((view - mean) / std, ref, VIEW_ENTRY["tolerance"]["all"], f"antialias {antialias}")


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (20, 33), (32, 32), (32, 45)])
@pytest.mark.parametrize("antialias", [False, True])
def test_clips_view_is_torchvisions_resize_and_centre_crop_at_any_shape(size: tuple[int, int], antialias: bool) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    resized = tv.resize((x + 1) / 2, [32], interpolation=tv.InterpolationMode.BICUBIC, antialias=antialias)
    assert torch.allclose(clip_view(x, 32, antialias), tv.center_crop(resized, [32, 32]), atol=1e-6)


@pytest.mark.parametrize(("cos", "value"), [(1, 0), (0.5, 0.288), (0.2, 0.511), (0, 0.693), (-0.5, 1.386)])
def test_the_negative_log_takes_the_published_values(cos: float, value: float) -> None:
    assert negative_log(torch.tensor(1.0 - cos)).item() == pytest.approx(value, abs=5e-4)


@given(
    st.lists(st.floats(-(2**-20), 2 + 2**-20, width=32) | st.floats(2 - 2**-16, 2, width=32), min_size=1, max_size=8)
)
def test_the_negative_log_is_finite_with_a_finite_slope_and_never_falls(numbers: list[float]) -> None:
    losses = torch.tensor(sorted(numbers)).requires_grad_()
    values = negative_log(losses)
    values.sum().backward()
    assert losses.grad is not None
    assert values.max().item() <= -log(MIN_ARGUMENT) + 1e-5
    assert (values.diff() >= 0).all()
    assert (losses.grad >= 0).all()
    assert losses.grad.max().item() <= 0.51 / MIN_ARGUMENT


def test_an_edit_opposite_to_the_text_gives_a_finite_gradient_to_the_embedding() -> None:
    direction, source = F.normalize(embeddings(1), dim=-1), embeddings(1, seed=1)
    along = direction - (direction * F.normalize(source, dim=-1)).sum() * F.normalize(source, dim=-1)
    for step in (1e-3, 1e-1, 1.0):
        edited = (source - step * along).requires_grad_()
        negative_log(direction_loss(direction, source, edited)).sum().backward()
        assert edited.grad is not None
        assert edited.grad.isfinite().all()


def test_an_image_that_did_not_move_is_neither_right_nor_wrong_and_has_a_finite_gradient() -> None:
    source = embeddings(2)
    edited = source.clone().requires_grad_()
    losses = direction_loss(F.normalize(embeddings(1, seed=1), dim=-1), source, edited)
    losses.sum().backward()
    assert torch.equal(losses, torch.ones(2))
    assert edited.grad is not None
    assert edited.grad.isfinite().all()


def test_equal_texts_have_no_direction_and_judge_no_edit() -> None:
    texts = embeddings(3)
    direction = text_direction(texts, texts)
    assert torch.equal(direction, torch.zeros(1, 16))
    assert torch.equal(direction_loss(direction, embeddings(2), embeddings(2, seed=1)), torch.ones(2))


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_no_loss_hangs_on_the_length_of_an_embedding_and_each_lies_in_0_to_2(seed: int, scale: float) -> None:
    source, target = embeddings(5, seed), embeddings(5, seed + 1)
    before, after = embeddings(3, seed + 2), embeddings(3, seed + 3)
    direction = text_direction(source, target)
    losses = direction_loss(direction, before, after)
    assert ((losses >= -1e-6) & (losses <= 2 + 1e-6)).all()
    assert torch.allclose(direction.norm(), torch.ones(()), atol=1e-6)
    assert torch.allclose(text_direction(source * scale, target / scale), direction, atol=1e-5)
    assert torch.allclose(direction_loss(direction, before * scale, after / scale), losses, atol=1e-5)
    assert torch.allclose(global_loss(after * scale, source[:1]), global_loss(after, source[:1]), atol=1e-5)


def test_the_global_loss_is_0_for_the_text_itself_and_2_for_its_opposite() -> None:
    text = embeddings(1)
    losses = global_loss(torch.cat([3 * text, -text]), text)
    assert torch.allclose(losses, torch.tensor([0.0, 2.0]), atol=1e-6)


def test_an_entrys_gradient_is_its_own() -> None:
    direction, source = text_direction(embeddings(4), embeddings(4, seed=1)), embeddings(3, seed=2)
    edited = embeddings(3, seed=3).requires_grad_()
    losses = negative_log(direction_loss(direction, source, edited)) + global_loss(edited, direction)
    (grad,) = torch.autograd.grad(losses[1], edited)
    assert grad[1].abs().sum() > 0
    assert torch.equal(grad[[0, 2]], torch.zeros(2, 16))
