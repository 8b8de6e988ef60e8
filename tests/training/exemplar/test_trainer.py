"""The loop: batches may be split and runs may be stopped; what is learned stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from retouch.errors import ConfigError, ManifestError
from retouch.jobs.train_params import TrainParams
from retouch.training.exemplar.data import Samples, read_rows
from retouch.training.exemplar.distributed import WorkerGroup
from retouch.training.exemplar.examples import Sizes
from retouch.training.exemplar.initial_weights import load_start
from retouch.training.exemplar.task import UNREADABLE
from retouch.training.exemplar.trainer import Trainer, learning_rate

from tests.training.exemplar.tiny import write_networks, write_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    write_networks(folder)
    write_rows(folder, 12)
    return folder


def trainer(material: Path, rows: str | None = None, max_failure_rate: float = 0.05, **params: Any) -> Trainer:
    files = {
        role: str(material / f"{role}.safetensors") for role in ("exemplar_vae", "exemplar_unet", "exemplar_encoder")
    }
    values = {"steps": 3, "batch": 4, "learning_rate": 1e-3, "warmup": 0, "jitter": 1, **params}
    found = TrainParams(**values)
    networks = load_start(files, found.prior, 0)
    table = read_rows(rows or str(material / "boxes.parquet")).table
    samples = Samples(table, found, Sizes(networks.image_size, networks.reference_size), 3)
    return Trainer(networks, samples, found, 3, WorkerGroup("cpu"), max_failure_rate)


def trained(material: Path, **params: Any) -> Trainer:
    found = trainer(material, **params)
    found.run(lambda _: None)
    return found


def curve(found: Trainer) -> list[float]:
    return [loss for loss, _ in found.progress.curve]


def test_frozen_parts_stay_and_all_others_move(material: Path) -> None:
    before = trainer(material)
    after = trained(material)
    for role, module in before.networks.parts().items():
        moved = after.networks.parts()[role].state_dict()
        for name, value in module.state_dict().items():
            frozen = role == "exemplar_vae" or name.startswith("model.")
            # Of one token attention's softmax is 1, whatever queries and keys are: only weight decay reaches those.
            assert torch.equal(value, moved[name]) == frozen, f"{role} {name}"


def test_the_loss_falls_on_a_handful_of_images(material: Path) -> None:
    losses = curve(trained(material, steps=30, batch=4, learning_rate=2e-3, condition_drop=0.0))
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_accumulated_passes_equal_one_large_batch(material: Path) -> None:
    large, small = trained(material, batch=4), trained(material, batch=1, accumulate=4)
    assert small.progress.drawn == large.progress.drawn == 12
    # Kernels round by the batch's shape; that is all that may differ.
    assert curve(small) == pytest.approx(curve(large), rel=1e-4)


def test_a_restored_run_ends_bit_for_bit_where_an_uninterrupted_one_does(material: Path, tmp_path: Path) -> None:
    whole = trained(material, steps=4, ema=0.9)
    half = trained(material, steps=2, ema=0.9)
    torch.save(half.state(), tmp_path / "state.ckpt")
    again = trainer(material, steps=4, ema=0.9)
    again.restore(torch.load(tmp_path / "state.ckpt", weights_only=True))
    again.run(lambda _: None)
    assert again.progress == whole.progress
    for name, value in whole.trained().items():
        assert torch.equal(value, again.trained()[name]), name
        assert torch.equal(whole.average[name], again.average[name]), name


def test_averaged_weights_are_the_ones_that_are_kept(material: Path) -> None:
    found = trained(material, ema=0.5)
    last = {name: value.detach().clone() for name, value in found.trained().items()}
    kept = dict(found.result().unet.named_parameters())
    assert torch.equal(kept["conv_out.weight"], found.average["unet.conv_out.weight"])
    assert not torch.equal(kept["conv_out.weight"], last["unet.conv_out.weight"])


def test_half_precision_follows_full_precision_within_its_own(material: Path) -> None:
    full, half = curve(trained(material)), curve(trained(material, precision="bfloat16"))
    assert half == pytest.approx(full, rel=0.02)
    assert half != full


def test_recomputing_activations_changes_no_loss(material: Path) -> None:
    assert curve(trained(material, checkpointing=True)) == pytest.approx(curve(trained(material)), rel=1e-5)


def test_every_ablation_trains(material: Path) -> None:
    plain = curve(trained(material, steps=2))
    for params in ({"tokens": "all"}, {"condition_drop": 0.0}, {"augmentation": False}, {"prior": "none"}):
        losses = curve(trained(material, steps=2, **params))
        assert all(0 < loss < 10 for loss in losses)
        assert losses != plain, params


def test_a_dropped_condition_teaches_the_unconditional_vector_and_a_kept_one_the_mapper(material: Path) -> None:
    for drop, learns in ((1.0, "encoder.uncond_vector"), (0.0, "encoder.mapper.blocks.0.attn1.to_v.weight")):
        found = trainer(material, condition_drop=drop, weight_decay=0.0)
        before = {name: value.detach().clone() for name, value in found.trained().items()}
        found.run(lambda _: None)
        moved = {name for name, value in found.trained().items() if not torch.equal(value, before[name])}
        assert learns in moved
        assert ("encoder.uncond_vector" in moved) == (drop == 1.0)


def test_a_bad_row_is_named_and_too_many_stop_the_run(tmp_path: Path, material: Path) -> None:
    rows = write_rows(tmp_path, 12)
    (tmp_path / "files" / "5.png").write_bytes(b"")
    found = trainer(material, str(rows), max_failure_rate=0.1)
    found.run(lambda _: None)
    assert {key: problem.kind for key, problem in found.progress.problems.items()} == {"row-005": UNREADABLE}
    with pytest.raises(ManifestError, match=r"1 of 12 rows cannot be read.*row-005: image file is empty"):
        trainer(material, str(rows), max_failure_rate=0.05).run(lambda _: None)


def test_a_row_that_was_mended_is_no_longer_a_problem(tmp_path: Path, material: Path) -> None:
    rows = write_rows(tmp_path, 12)
    whole = (tmp_path / "files" / "5.png").read_bytes()
    (tmp_path / "files" / "5.png").write_bytes(b"")
    found = trainer(material, str(rows), max_failure_rate=0.1)
    found.run(lambda _: None)
    (tmp_path / "files" / "5.png").write_bytes(whole)
    again = trainer(material, str(rows), steps=6)
    again.restore(found.state())
    assert set(again.progress.problems) == {"row-005"}
    again.run(lambda _: None)
    assert again.progress.problems == {}


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(material: Path) -> None:
    found = trainer(material)
    with torch.no_grad():
        found.networks.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(ConfigError, match="the loss is nan at update 0; lower learning_rate"):
        found.run(lambda _: None)
    assert found.progress.step == 0


def test_the_rate_rises_in_a_line_and_then_stays() -> None:
    params = TrainParams(learning_rate=1e-5, warmup=10)
    rates = [learning_rate(step, params) for step in range(15)]
    assert rates[0] == pytest.approx(1e-11)
    assert rates[5] == pytest.approx(0.5e-5, rel=1e-5)
    assert rates[10:] == [1e-5] * 5
    assert learning_rate(0, TrainParams(warmup=0)) == TrainParams().learning_rate
