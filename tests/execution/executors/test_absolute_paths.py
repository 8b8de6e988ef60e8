"""Workers stand in folders of their own: what they are told must not depend on where the command stood."""

from __future__ import annotations

from pathlib import Path

import pytest
from retouch.execution.evaluation.scorer import ScoreSpec, Shard
from retouch.execution.executors import absolute_paths
from retouch.execution.plan import make_plan
from retouch.training.exemplar.task import TrainTask

from tests.helpers.datasets import painter_job, write_dataset


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.ckpt").write_bytes(b"")
    return tmp_path


def test_a_trainings_files_are_absolute_and_names_stay(here: Path) -> None:
    weights = {"family": "embedded:shapes", "checkpoint": f"start.ckpt#sha256={'0' * 64}", "clip": "s3://b/clip.pt"}
    task = absolute_paths.training(TrainTask("t", ("boxes.parquet", "s3://b/*.parquet"), "runs/t", weights, {}, 0))
    assert task.manifests == (f"{here}/boxes.parquet", "s3://b/*.parquet")
    assert task.output == f"{here}/runs/t"
    assert task.weights == {**weights, "checkpoint": f"{here}/start.ckpt#sha256={'0' * 64}"}
    assert (
        absolute_paths.training(TrainTask("t", (), "s3://b/t", "embedded:shapes", {}, 0)).weights == "embedded:shapes"
    )


def test_a_plans_output_and_weights_are_absolute_for_every_station(here: Path) -> None:
    write_dataset(here, 1)
    job = painter_job(here, "manifest.parquet", output="runs/out")
    plan = absolute_paths.editing(make_plan(job))
    assert {plan.engine.output, plan.decode.output, plan.write.output} == {f"{here}/runs/out"}
    assert plan.todo["image"].to_pylist() == [f"{here}/files/0.png"]
    remote = absolute_paths.editing(make_plan(job.model_copy(update={"output": "memory://out"})))
    assert remote.write.output == "memory://out"


def test_a_shards_files_are_absolute(here: Path) -> None:
    (shard,) = absolute_paths.shards([Shard("a", "runs/out", (), {0: "e/states/0.npz"}, None)])
    assert (shard.base, shard.states, shard.scores) == (f"{here}/runs/out", {0: f"{here}/e/states/0.npz"}, None)
    assert absolute_paths.scoring(ScoreSpec((), weights={"clip": "start.ckpt"})).weights == {
        "clip": f"{here}/start.ckpt"
    }
