"""The batch that the loss takes, and whose condition is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from retouch.diffusion.noise import derive_seed
from retouch.training.exemplar.examples import Example
from retouch.training.exemplar.loss import ExemplarLoss, dropped_conditions, prepare_batch

from tests.helpers.tiny_paint_by_example import tiny

SEEDS = [derive_seed(0, "noise", number) for number in range(2000)]


def examples(count: int) -> list[Example]:
    draw = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        keep = torch.ones(1, 16, 16)
        keep[:, 4:12, 4:12] = 0
        made.append(Example(torch.rand(3, 16, 16, generator=draw) * 2 - 1, keep, torch.rand(3, 28, 28, generator=draw)))
    return made


def test_conditions_are_left_out_one_by_one_as_often_as_asked() -> None:
    dropped = dropped_conditions(SEEDS, 0.2, "sample")
    assert 0.17 < dropped.float().mean() < 0.23
    pairs = dropped.view(-1, 2)
    mixed = (pairs[:, 0] != pairs[:, 1]).float().mean()
    assert mixed == pytest.approx(2 * 0.2 * 0.8, abs=0.04), "neighbours must not share a draw"


def test_the_published_codes_batches_are_left_out_whole_as_often_as_asked() -> None:
    batches = torch.stack(
        [dropped_conditions(SEEDS[start : start + 4], 0.2, "batch") for start in range(0, len(SEEDS), 4)]
    )
    assert bool((batches.all(dim=1) | ~batches.any(dim=1)).all())
    assert 0.14 < batches[:, 0].float().mean() < 0.26


def test_nothing_or_everything_is_left_out_at_the_ends() -> None:
    assert not dropped_conditions(SEEDS, 0.0, "sample").any()
    assert dropped_conditions(SEEDS, 1.0, "sample").all()


def test_an_entry_gets_the_same_alone_and_among_others() -> None:
    networks, made = tiny(), examples(3)
    together = prepare_batch(networks, made, SEEDS[:3], torch.zeros(3, dtype=torch.bool))
    alone = prepare_batch(networks, made[1:2], SEEDS[1:2], torch.zeros(1, dtype=torch.bool))
    for name in ("eps", "t", "keep", "reference"):
        assert torch.equal(getattr(together, name)[1:2], getattr(alone, name)), name
    for name in ("latent", "masked"):  # through the autoencoder, whose kernels round by the batch's shape
        torch.testing.assert_close(getattr(together, name)[1:2], getattr(alone, name), atol=1e-5, rtol=1e-5)


def test_the_hole_is_mid_grey_and_the_masks_one_is_what_stays() -> None:
    networks, (example,) = tiny(), examples(1)
    batch = prepare_batch(networks, [example], SEEDS[:1], torch.zeros(1, dtype=torch.bool))
    other = Example(torch.where(example.keep > 0, example.target, -example.target), example.keep, example.reference)
    changed = prepare_batch(networks, [other], SEEDS[:1], torch.zeros(1, dtype=torch.bool))
    assert torch.equal(batch.masked, changed.masked), "the masked image says something of the hole"
    assert not torch.equal(batch.latent, changed.latent)
    assert batch.keep[0, 0, 0, 0] == 1
    assert batch.keep[0, 0, 4, 4] == 0


def test_a_dropped_entry_does_not_see_its_reference_and_the_others_do() -> None:
    networks = tiny()
    loss = ExemplarLoss(networks, "class")
    batch = prepare_batch(networks, examples(2), SEEDS[:2], torch.tensor([True, False]))
    before = loss(batch)
    batch.reference.mul_(-1)
    after = loss(batch)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


def test_noise_that_is_predicted_exactly_costs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    networks = tiny()
    loss = ExemplarLoss(networks, "class")
    batch = prepare_batch(networks, examples(2), SEEDS[:2], torch.zeros(2, dtype=torch.bool))
    monkeypatch.setattr(loss.unet, "forward", lambda x, t, context, return_dict: (batch.eps,))
    assert torch.equal(loss(batch), torch.zeros(2))
