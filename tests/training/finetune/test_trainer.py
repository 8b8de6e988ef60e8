from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.errors import ConfigError
from retouch.jobs.finetune_params import FinetuneParams
from retouch.training.finetune.losses import Losses, LossInputs
from retouch.training.finetune.trainer import Trainer, invert, learning_rate, translate
from torch import Tensor

from tests.training.finetune.tiny import SIZE, colour_distance, images, network, params, trainer

Weights = dict[str, Tensor]
NINE = params(iterations=3, lr_every=2)  # 5 images, 2 at once: 3 batches a pass


def nothing(_: Trainer) -> None:
    """Called after a batch."""


def ran(p: FinetuneParams, identity: Any = None, **options: Any) -> Trainer:
    """Trained to the end."""
    found = trainer(p, identity, **options)
    found.run(nothing)
    return found


def weights_of(found: Trainer) -> Weights:
    return {name: value.clone() for name, value in found.module.state_dict().items()}


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


class Stopped(Exception):
    """As a kill would, but without the wait."""


def stop_after(batch: int, keep: Callable[[Trainer], None]) -> Callable[[Trainer], None]:
    def after(found: Trainer) -> None:
        keep(found)
        if found.progress.update == batch:
            raise Stopped

    return after


@pytest.fixture(scope="module", params=["full", "efficient"])
def uninterrupted(request: pytest.FixtureRequest) -> tuple[FinetuneParams, Trainer]:
    p = params(iterations=3, lr_every=2, mode=request.param)
    return p, ran(p)


@settings(max_examples=4, deadline=None)
@given(stops=st.lists(st.integers(1, 8), min_size=1, max_size=3, unique=True).map(sorted), every=st.integers(1, 4))
def test_a_run_stopped_after_any_batches_ends_with_the_weights_of_one_that_was_not(
    uninterrupted: tuple[FinetuneParams, Trainer], stops: list[int], every: int
) -> None:
    p, whole = uninterrupted
    saved: dict[str, bytes] = {}

    def keep(found: Trainer) -> None:
        if found.progress.update % every == 0:
            out = io.BytesIO()
            torch.save(found.state(), out)
            saved["state"] = out.getvalue()

    for stop in [*stops, None]:
        found = trainer(p)
        if "state" in saved:
            found.restore(torch.load(io.BytesIO(saved["state"]), weights_only=True))
        if stop is None:
            found.run(keep)
        elif found.progress.update < stop:
            with pytest.raises(Stopped):
                found.run(stop_after(stop, keep))
    assert same(weights_of(found), weights_of(whole))
    assert found.progress == whole.progress
    assert not same(weights_of(found), network().module.state_dict())


@pytest.mark.parametrize(("mode", "updates"), [("full", 9), ("efficient", 9 * 3)])
def test_a_batch_is_one_update_in_full_mode_and_one_a_step_in_efficient_mode(mode: str, updates: int) -> None:
    found = ran(params(mode=mode))
    steps = {int(state["step"]) for state in found.adam.state.values()}
    assert steps == {updates}
    assert found.total == found.progress.update == len(found.progress.curves) == 9


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_activations_that_are_computed_again_change_no_weight(learn_sigma: bool) -> None:
    kept, light = (ran(params(checkpointing=c), learn_sigma=learn_sigma) for c in (False, True))
    assert same(weights_of(kept), weights_of(light))
    assert kept.progress == light.progress


def test_the_full_modes_gradient_comes_through_every_step() -> None:
    one, whole = (ran(params(n_train=n, iterations=1, batch=5, clip_norm=0)) for n in (2, 5))
    sizes = [found.module.enter.weight.grad.abs().sum() for found in (one, whole)]
    assert sizes[0] > 0
    assert sizes[0] != sizes[1]


def test_the_rate_grows_once_an_iteration_as_published_or_every_so_many_batches() -> None:
    rates = [curve["learning_rate"] for curve in ran(params()).progress.curves]
    assert rates == pytest.approx([1e-3] * 3 + [1.3e-3] * 3 + [1.69e-3] * 3)
    paper = FinetuneParams(learning_rate=4e-6, lr_factor=1.2, lr_every=50)
    assert [learning_rate(n, 50, paper) for n in (0, 49, 50, 149)] == pytest.approx([4e-6, 4e-6, 4.8e-6, 5.76e-6])


@pytest.mark.parametrize("mode", ["full", "efficient"])
def test_training_lowers_what_it_is_trained_for(mode: str) -> None:
    p = params(mode=mode, iterations=12, lr_factor=1.0, learning_rate=5e-3, l1_weight=0.1, batch=5)
    found = ran(p)
    totals = [curve["total"] for curve in found.progress.curves]
    assert totals[-1] < 0.8 * totals[0]


def test_with_parity_the_identity_moves_no_weight_in_efficient_mode_and_without_it_does() -> None:
    plain, parity, mended = (
        weights_of(ran(params(mode="efficient", iterations=1, **changes), colour_distance))
        for changes in (
            {},
            {"identity_weight": 5.0, "identity_parity": True},
            {"identity_weight": 5.0},
        )
    )
    assert same(plain, parity)
    assert not same(plain, mended)


def test_parity_leaves_the_full_mode_as_it_is() -> None:
    with_, without = (
        weights_of(ran(params(iterations=1, identity_weight=5.0, identity_parity=parity), colour_distance))
        for parity in (True, False)
    )
    assert same(with_, without)


class Watched(Losses):
    """Notes which images it was inputs about, and the seeds of their views."""

    def terms(self, x: Tensor, inputs: LossInputs, identity_of: Tensor | None = None) -> dict[str, Tensor]:
        self.ranges.__dict__.setdefault("seen", []).append((inputs.x0.clone(), tuple(inputs.seeds)))
        return super().terms(x, inputs, identity_of)


def test_each_image_is_learned_from_once_an_iteration_in_another_order_and_with_other_views() -> None:
    found = trainer(NINE)
    plain = found.losses
    found.losses = Watched(plain.params, plain.encode, plain.clip_size)
    found.run(nothing)
    seen = found.losses.ranges.__dict__["seen"]
    orders = []
    for iteration in range(3):
        part = seen[3 * iteration : 3 * iteration + 3]
        assert [len(x0) for x0, _ in part] == [2, 2, 1]
        x0 = torch.cat([x0 for x0, _ in part])
        orders.append([int((x == images(5)).flatten(1).all(dim=1).nonzero()) for x in x0])
        assert sorted(orders[-1]) == [0, 1, 2, 3, 4]
    assert len({tuple(order) for order in orders}) > 1
    seeds = [seed for _, batch in seen for seed in batch]
    assert len(set(seeds)) == len(seeds) == 15


def test_the_seed_decides_the_weights() -> None:
    one, again, other = (trainer(NINE) for _ in range(3))
    other.seed = 8
    for found in (one, again, other):
        found.run(nothing)
    assert same(weights_of(one), weights_of(again))
    assert not same(weights_of(one), weights_of(other))


def test_a_cut_gradient_is_no_longer_than_it_may_be() -> None:
    norms = []
    for clip_norm in (0.0, 1e-3):
        found = ran(params(iterations=1, clip_norm=clip_norm))
        grads = [p.grad.flatten() for p in found.module.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))
    assert norms[0] > 1e-2
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights() -> None:
    found = trainer(params(learning_rate=1e30))
    with pytest.raises(ConfigError, match=r"the loss is (nan|inf) at batch 1; lower learning_rate"):
        found.run(nothing)
    assert {int(state["step"]) for state in found.adam.state.values()} == {1}
    assert all(torch.isfinite(value).all() for value in weights_of(found).values())


@pytest.mark.parametrize("learn_sigma", [False, True])
def test_a_latent_and_a_translation_do_not_depend_on_how_many_there_are(learn_sigma: bool) -> None:
    net, x0 = network(learn_sigma), images(11)
    all_of_them = invert(net, x0, 300, 4)
    for part in (slice(0, 1), slice(3, 6), slice(8, 11)):
        assert torch.equal(invert(net, x0[part], 300, 4), all_of_them[part])
        assert torch.equal(
            translate(net, all_of_them[part], 300, 4), translate(net, all_of_them, 300, 4)[part]
        )  # fmt: skip
    assert all_of_them.shape == (11, 3, SIZE, SIZE)
    assert not all_of_them.requires_grad
