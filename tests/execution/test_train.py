"""A training from its job file to networks that an editor takes."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from retouch import storage
from retouch.cli.app import app
from retouch.diffusion.noise import Noise
from retouch.editors.paint_by_example.params import Params
from retouch.editors.paint_by_example.sampler import edit
from retouch.errors import ConfigError, ManifestError, OutputError, WeightsError
from retouch.execution.train import Trained, train
from retouch.jobs.config import TrainJob
from retouch.models import weights
from retouch.models.paint_by_example import load_networks
from retouch.training.exemplar.task import UNREADABLE
from rich.console import Console
from typer.testing import CliRunner

from tests.training.exemplar.tiny import losses, train_job, write_rows

pytestmark = pytest.mark.slow


def here(job: TrainJob) -> Trained:
    return train(job, executor="local", console=Console(file=io.StringIO()))


def test_what_was_trained_is_what_an_editor_edits_with(tmp_path: Path) -> None:
    trained = here(train_job(tmp_path))
    networks = load_networks(weights.resolve(trained.networks).files)
    before = load_networks(weights.resolve(str(tmp_path / "start")).files)
    side = networks.image_size
    mask = torch.zeros(1, 1, side, side)
    mask[:, :, 4:12, 4:12] = 1
    source, exemplar = torch.rand(1, 3, side, side) * 2 - 1, torch.rand(1, 3, 28, 28)
    params = Params(steps=4, sampler="ddim")
    images = [edit(net, source, mask, exemplar, torch.tensor([2.0]), params, Noise([1])) for net in (networks, before)]
    assert torch.isfinite(images[0]).all()
    assert not torch.equal(*images)


def test_the_output_tells_what_was_learned_from_what(tmp_path: Path) -> None:
    write_rows(tmp_path, 12)
    (tmp_path / "files" / "3.png").write_bytes(b"")
    job = train_job(tmp_path, max_failure_rate=0.1, params={"steps": 6})
    trained = here(job)
    out = tmp_path / "out"
    record = json.loads((out / "training.json").read_text())
    assert (record["steps"], record["samples"], record["rows"], record["workers"]) == (6, 12, 12, 1)
    assert record["problems"][UNREADABLE] == {"rows": 1, "first": {"row-003": "image file is empty"}}
    assert record["sha256"]["exemplar_unet.safetensors"] == storage.sha256_of(
        out / "networks/exemplar_unet.safetensors"
    )
    curve = pq.read_table(out / "losses.parquet")
    assert curve.column_names == ["step", "loss", "learning_rate"]
    assert (curve.num_rows, curve["loss"][-1].as_py()) == (6, trained.loss)
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "run.json").read_text())["job"] == job.model_dump(mode="json")
    progress = json.loads((out / "progress.json").read_text())
    assert (progress["step"], progress[f"rows {UNREADABLE}"]) == (6, 1)


def test_a_training_that_stops_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """The training stops because a row of a late update cannot be read, and resumes when that row is repaired."""
    whole = here(train_job(tmp_path, output=str(tmp_path / "whole"), params={"steps": 6}))
    images = {path: path.read_bytes() for path in (tmp_path / "files").iterdir()}
    job = train_job(tmp_path, params={"steps": 6}, max_failure_rate=0.0)
    from retouch.training.exemplar.data import row_of

    late = tmp_path / "files" / f"{row_of(job.seed, 9, 12)}.png"
    late.write_bytes(b"")
    with pytest.raises(ManifestError, match="image file is empty"):
        here(job)
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["step"] == 4
    late.write_bytes(images[late])
    again = here(job)
    assert losses(again.output) == losses(whole.output)
    files = ["exemplar_unet.safetensors", "exemplar_encoder.safetensors"]
    for name in files:
        assert (Path(again.networks) / name).read_bytes() == (Path(whole.networks) / name).read_bytes(), name


def test_a_finished_training_is_left_as_it_is_and_more_steps_go_on_from_it(tmp_path: Path) -> None:
    whole = here(train_job(tmp_path, output=str(tmp_path / "whole"), params={"steps": 6}))
    here(train_job(tmp_path))
    stamp = (tmp_path / "out" / "training.json").stat().st_mtime_ns
    assert here(train_job(tmp_path)).steps == 4
    assert (tmp_path / "out" / "training.json").stat().st_mtime_ns == stamp
    assert here(train_job(tmp_path, params={"steps": 6})).steps == 6
    assert losses(tmp_path / "out") == losses(whole.output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 4}, "differs in seed"), ({"params": {"condition_drop": 0.5}}, "differs in params")],
)
def test_an_output_that_holds_another_training_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    here(train_job(tmp_path))
    with pytest.raises(OutputError, match=message):
        here(train_job(tmp_path, **changes))


def test_an_output_that_holds_another_kind_of_run_or_was_begun_elsewhere_is_refused(tmp_path: Path) -> None:
    here(train_job(tmp_path))
    path = tmp_path / "out" / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "executor": "ray"}))
    with pytest.raises(OutputError, match="was started with --executor ray"):
        here(train_job(tmp_path))
    path.write_text(json.dumps({"job": {}}))
    with pytest.raises(OutputError, match="holds a run of kind 'edit'"):
        here(train_job(tmp_path))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"params": {"stepz": 3}}, ConfigError, r"params\.stepz: unknown key; did you mean steps\?"),
        ({"params": {"image_size": 18}}, ConfigError, "these networks take multiples of 4"),
        ({"weights": "nowhere"}, WeightsError, "no weights at nowhere"),
        ({"manifest": "nowhere.parquet"}, ManifestError, "nowhere.parquet"),
    ],
)
def test_a_wrong_job_stops_in_one_line(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        here(train_job(tmp_path, **changes))
    assert "\n" not in str(raised.value)


def test_another_image_size_is_told_to_those_who_load_the_networks(tmp_path: Path) -> None:
    trained = here(train_job(tmp_path, params={"steps": 1, "image_size": 24}))
    assert load_networks(weights.resolve(trained.networks).files).image_size == 24


def test_checkpoints_and_networks_may_lie_on_s3(tmp_path: Path, moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))
    local = here(train_job(tmp_path, params={"steps": 4}))
    remote = here(train_job(tmp_path, output=f"{moto_s3}/run", params={"steps": 2}))
    remote = here(train_job(tmp_path, output=f"{moto_s3}/run", params={"steps": 4}))
    assert remote.loss == local.loss
    assert load_networks(weights.resolve(remote.networks).files).image_size == 16
    assert os.listdir(tmp_path / "cache")


def test_the_command_trains(tmp_path: Path) -> None:
    job = train_job(tmp_path, params={"steps": 1})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    found = CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml"), "--executor", "local"])
    assert found.exit_code == 0, found.output
    assert f"networks: {tmp_path / 'out'}/networks" in found.output
    with pytest.raises(ConfigError, match="is of kind train, which has no rows"):
        CliRunner().invoke(app, ["run", str(tmp_path / "job.yaml"), "--limit", "3"], catch_exceptions=False)
