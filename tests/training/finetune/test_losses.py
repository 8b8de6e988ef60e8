from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.training.finetune.losses import LossInputs
from torch import Tensor

from tests.training.finetune.tiny import SIZE, colour_distance, inputs, losses, params

# Each kind of view: plain and warped, of the whole and of the mask.
ALL = params(views=4, masked_share=0.5, global_weight=1.0, l1_weight=0.5, range_weight=2.0, identity_weight=0.7)


def moved(given_: LossInputs, seed: int = 5, by: float = 0.5) -> Tensor:
    """Edits of the sources, some of them beyond [-1, 1]."""
    noise = torch.randn(given_.x0.shape, generator=torch.Generator().manual_seed(seed))
    return given_.x0 + by * noise


def only(given_: LossInputs, at: list[int]) -> LossInputs:
    return LossInputs(
        given_.x0[at], given_.mask[at], given_.direction[at], given_.target[at], [given_.seeds[i] for i in at]
    )  # fmt: skip


@given(st.integers(0, 2), st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_an_entrys_terms_and_gradient_depend_on_itself_alone(entry: int, seed: int) -> None:
    three, every = inputs(3), losses(ALL, colour_distance)
    x = moved(three, seed).requires_grad_()
    terms = every.terms(x, three)
    assert list(terms) == ["direction", "global", "l1", "range", "identity"]
    (grad,) = torch.autograd.grad(every.total(terms)[entry], x)
    assert grad[entry].abs().max() > 0
    assert not grad[[i for i in range(3) if i != entry]].any()
    alone = every.terms(x[[entry]], only(three, [entry]))
    for name, value in terms.items():
        assert value.shape == (3,)
        torch.testing.assert_close(alone[name][0], value[entry], rtol=1e-4, atol=1e-5)


def test_the_total_is_the_weighted_sum_and_a_term_without_weight_is_not_computed() -> None:
    given_ = inputs()
    x = moved(given_)
    terms = losses(ALL, colour_distance).terms(x, given_)
    weights = {"direction": 3.0, "global": 1.0, "l1": 0.5, "range": 2.0, "identity": 0.7}
    expected = sum(weights[name] * value for name, value in terms.items())
    torch.testing.assert_close(losses(ALL).total(terms), expected)
    assert list(losses(params(l1_weight=0), colour_distance).terms(x, given_)) == ["direction"]


def test_an_edit_that_did_not_move_is_across_the_direction_however_many_views_it_has() -> None:
    given_ = inputs()
    for form, value in (("log", log(2)), ("plain", 1.0)):
        terms = losses(params(direction_form=form, views=5)).terms(given_.x0, given_)
        torch.testing.assert_close(terms["direction"], torch.full((2,), value))
        assert not terms["l1"].any()


def test_the_log_form_is_that_of_the_plain_one_view_by_view() -> None:
    given_ = inputs()
    x = moved(given_)
    plain, logged = (
        losses(params(direction_form=form, views=1, masked_share=0)).terms(x, given_)["direction"]
        for form in ("plain", "log")
    )
    torch.testing.assert_close(logged, -((2 - plain) / 2).log())


@pytest.mark.parametrize("inside", [0.0, 0.25, 1.0])
def test_l1_weighs_the_inside_of_a_mask_as_it_is_told(inside: float) -> None:
    given_ = inputs()
    x = moved(given_).requires_grad_()
    term = losses(params(l1_inside=inside)).terms(x, given_)["l1"]
    (grad,) = torch.autograd.grad(term.sum(), x)
    outside = given_.mask.expand_as(x) == 0
    torch.testing.assert_close(grad[~outside].abs().mean(), inside * grad[outside].abs().mean())
    assert grad[outside].all()
    if inside == 1:
        torch.testing.assert_close(term, (x - given_.x0).abs().flatten(1).mean(dim=1))


@pytest.mark.parametrize("resize", ["bicubic", "area"])
def test_masked_views_see_nothing_outside_the_mask(resize: str) -> None:
    given_ = inputs()
    for share, is_seen in ((1.0, False), (0.5, True)):
        p = params(masked_share=share, views=4, resize=resize, global_weight=1.0, l1_weight=0)
        x = moved(given_).requires_grad_()
        every = losses(p)
        (grad,) = torch.autograd.grad(every.total(every.terms(x, given_)).sum(), x)
        inside = given_.mask.expand_as(x) == 1
        assert grad[inside].any()
        assert bool(grad[~inside].any()) == is_seen


def test_views_are_drawn_from_the_entrys_own_seed() -> None:
    given_ = inputs()
    x = moved(given_)
    first = losses(ALL).terms(x, given_)["global"]
    again = losses(ALL).terms(x, replace(given_, seeds=[0, 11]))["global"]
    assert first[0] == again[0]
    assert first[1] != again[1]


def test_pixels_within_their_range_cost_nothing() -> None:
    given_ = inputs()
    x = given_.x0.clone()
    every = losses(ALL)
    assert not every.terms(x, given_)["range"].any()
    x[1, 0, 0, 0] = 2.0
    torch.testing.assert_close(every.terms(x, given_)["range"], torch.tensor([0, 1 / (3 * SIZE * SIZE)]))


def test_the_identity_looks_at_another_image_where_it_is_told_to() -> None:
    given_ = inputs()
    x = moved(given_).requires_grad_()
    every = losses(ALL, colour_distance)
    assert every.terms(x, given_)["identity"].requires_grad
    other = every.terms(x, given_, identity_of=given_.x0)["identity"]
    assert not other.requires_grad
    assert not other.any()
