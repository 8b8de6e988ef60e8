"""Targets side by side on Ray: the files that one process makes, also where a worker is killed under way."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from retouch.errors import StopRun
from retouch.execution.executors.ray.finetune import execute, options
from retouch.execution.finetune import finetune, tasks_of
from retouch.jobs.config import FinetuneJob, TaskSpec, parse_job
from rich.console import Console

from tests.training.finetune.tiny import PARAMS, job, write_networks, write_rows


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_networks(tmp_path_factory.mktemp("networks"))


def asked(data: dict[str, Any]) -> FinetuneJob:
    found = parse_job(data, "test")
    assert isinstance(found, FinetuneJob)
    return found


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def ran(data: dict[str, Any], executor: Any) -> dict[str, str]:
    """Target to the hash of its file."""
    found = finetune(asked(data), executor=executor, console=Console(file=io.StringIO()))
    return {name: sha256(file) for name, file in found.targets.items()}


@pytest.mark.ray
def test_ray_and_this_process_give_the_same_files(files: dict[str, str], tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    here = ran(job(tmp_path, files, rows, output=str(tmp_path / "here")), "local")
    there = ran(job(tmp_path, files, rows, output=str(tmp_path / "there")), "ray")
    assert here == there
    assert len(set(here.values())) == 2


@pytest.mark.ray
def test_a_target_that_cannot_be_learned_stops_the_run_in_one_line(files: dict[str, str], tmp_path: Path) -> None:
    data = job(tmp_path, files, write_rows(tmp_path, prompt=["cat", ""] * 3 + ["cat"]))
    with pytest.raises(StopRun, match="target own has no texts and row 'row-001' lacks") as error:
        ran(data, "ray")
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


@pytest.mark.ray
def test_a_worker_that_is_killed_is_followed_by_one_that_ends_with_the_same_file(
    files: dict[str, str], tmp_path: Path
) -> None:
    rows = write_rows(tmp_path)
    many = {**PARAMS, "iterations": 10, "save_every": 1}
    targets = [{"name": "cat", "source_prompt": "red", "prompt": "cat"}]
    data = job(tmp_path, files, rows, params=many, targets=targets)
    state, killed, over = tmp_path / "out" / "state" / "cat.ckpt", [], threading.Event()

    def kill() -> None:
        while not over.wait(0.005):
            if state.exists() and (found := tuning_processes()):
                killed.extend(found)
                for pid in found:
                    os.kill(pid, signal.SIGKILL)
                return

    watcher = threading.Thread(target=kill)
    watcher.start()
    try:
        done = dict(execute(tasks_of(asked(data)), TaskSpec()))
    finally:
        over.set()
        watcher.join()
    assert len(killed) == 1, "it ended before it could be killed"
    assert done.keys() == {"cat"}
    whole = ran({**data, "output": str(tmp_path / "whole")}, "local")
    assert sha256(tmp_path / "out" / "networks" / "cat.safetensors") == whole["cat"]
    assert not state.exists()


def tuning_processes() -> list[int]:
    """Ray's workers at work on a target, of those that this process started."""
    parents, at_work = {}, []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_bytes().startswith(b"ray::_tune"):
                at_work.append(int(folder.name))
        except OSError:  # it ended meanwhile
            continue
    return [pid for pid in at_work if os.getpid() in _ancestors(pid, parents)]


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while (pid := parents.get(pid, 0)) > 0:
        found.add(pid)
    return found


@pytest.mark.parametrize(
    ("spec", "cluster", "wanted"),
    [
        ({}, {"CPU": 8, "GPU": 4}, {"num_gpus": 1.0, "num_cpus": 0.0, "resources": {}}),
        ({}, {"CPU": 2}, {"num_gpus": 0.0, "num_cpus": 1.0, "resources": {}}),
        ({"gpus_per_task": 0.5}, {"CPU": 2, "GPU": 1}, {"num_gpus": 0.5, "num_cpus": 0.0, "resources": {}}),
        ({"gpus_per_task": 0, "cpus_per_task": 2}, {"CPU": 2, "GPU": 1}, {
            "num_gpus": 0.0, "num_cpus": 2.0, "resources": {},
        }),
        ({"resources": {"big": 1}}, {"CPU": 1, "big": 2}, {"num_gpus": 0.0, "num_cpus": 1.0, "resources": {"big": 1}}),
    ],
)  # fmt: skip
def test_a_task_takes_what_the_cluster_has(
    spec: dict[str, Any], cluster: dict[str, float], wanted: dict[str, Any]
) -> None:
    assert options(TaskSpec(**spec), cluster) == wanted


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"gpus_per_task": 1}, "needs 1 GPU and the cluster has 0"),
        ({"cpus_per_task": 8}, "needs 8 CPU and the cluster has 4"),
        ({"resources": {"big": 2}}, "needs 2 big and the cluster has 0"),
    ],
)
def test_a_task_that_can_never_be_placed_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(StopRun, match=said):
        options(TaskSpec(**spec), {"CPU": 4})
