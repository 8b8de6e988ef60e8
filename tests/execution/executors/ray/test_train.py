"""Training under real Ray Train: the number of workers and a kill change nothing of what is learned."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch import storage
from retouch.errors import ManifestError, StopRun
from retouch.execution.executors.ray.train import _scaling
from retouch.execution.train import Trained, train
from retouch.jobs.config import TrainJob, WorkersSpec
from retouch.training.exemplar.data import row_of
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from tests.training.exemplar.tiny import losses, train_job, write_rows

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]  # a busy machine starts crews slowly
STEPS = 6
ROWS = 36  # more than six updates of four take, so that each comes once
LATE = 4  # the update for which a worker waits until it is killed; checkpoints are at every second
# Two halves of a batch are summed in another order than the whole: that much a loss may lie apart, relatively.
SPLIT = 1e-4


def quiet(job: TrainJob, **options: Any) -> Trained:
    return train(job, console=Console(file=io.StringIO()), **options)


def job(folder: Path, workers: int, **changes: Any) -> TrainJob:
    if not (folder / "boxes.parquet").exists():
        write_rows(folder, ROWS)
    params = {"steps": STEPS, "batch": 4 // workers, **changes.pop("params", {})}
    return train_job(folder, params=params, ray={"workers": workers}, **changes)


def written(output: Path | str) -> dict[str, Tensor]:
    folder = Path(output) / "networks"
    return {f"{path.stem}.{k}": v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, shared_ray: str) -> Path:
    """What two workers made without interruption."""
    folder = tmp_path_factory.mktemp("two")
    quiet(job(folder, 2), address=shared_ray)
    return folder / "out"


def test_two_workers_give_the_curve_of_one_with_the_doubled_batch(two: Path, tmp_path: Path) -> None:
    quiet(job(tmp_path, 1), executor="local")
    assert losses(two) == pytest.approx(losses(tmp_path / "out"), rel=SPLIT)
    assert json.loads((two / "training.json").read_text())["samples"] == 4 * STEPS


@pytest.mark.long
def test_a_killed_worker_costs_no_more_than_its_last_checkpoint_and_changes_no_weight(
    two: Path, tmp_path: Path
) -> None:
    asked = job(tmp_path, 2)
    with waited_for(asked, tmp_path) as release:
        killed: list[int] = []

        def kill_one() -> None:
            killed.append(min(workers_of(os.getpid())))
            os.kill(killed[0], signal.SIGKILL)
            release()

        quietly_beside(kill_one, asked.output, lambda: quiet(asked))
        assert killed
    assert losses(tmp_path / "out") == losses(two)
    assert same(written(tmp_path / "out"), written(two)), "the crew did not go on from its checkpoint"


@pytest.mark.long
def test_a_killed_driver_is_gone_on_from_by_the_same_command(two: Path, tmp_path: Path) -> None:
    asked = job(tmp_path, 2)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(asked.model_dump(mode="json")))
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-P", "-m", "retouch", "run", "job.yaml"]
    with waited_for(asked, tmp_path) as release:
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as first:
            wait_until(lambda: saved(asked.output) >= LATE or first.poll() is not None)
            assert first.poll() is None, "the run ended before it could be killed"
            first.send_signal(signal.SIGKILL)
        release()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert losses(tmp_path / "out") == losses(two)
    assert same(written(tmp_path / "out"), written(two)), "the second driver did not go on from the checkpoint"


@pytest.mark.long
def test_rows_that_cannot_be_read_stop_all_workers_in_one_line_and_no_one_tries_again(
    tmp_path: Path,
) -> None:
    asked = job(tmp_path, 2)
    (tmp_path / "files" / f"{row_of(asked.seed, 1, ROWS)}.png").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"1 of 36 rows cannot be read.*image file is empty") as error:
        quiet(asked.model_copy(update={"max_failure_rate": 0.0}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "there", "wanted"),
    [
        ({}, {"CPU": 8, "GPU": 4}, (4, {"GPU": 1.0, "CPU": 1.0})),
        ({"gpus_per_worker": 2, "cpus_per_worker": 3}, {"CPU": 8, "GPU": 4}, (2, {"GPU": 2.0, "CPU": 3.0})),
        ({}, {"CPU": 4}, (1, {"CPU": 1.0})),
        ({"workers": 3}, {"CPU": 4}, (3, {"CPU": 1.0})),
        ({"resources": {"train": 1}}, {"CPU": 4, "train": 1}, (1, {"CPU": 1.0, "train": 1.0})),
    ],
)
def test_workers_follow_what_the_cluster_has(spec: Any, there: Any, wanted: Any) -> None:
    found = _scaling(WorkersSpec(**spec), there)
    assert (found["num_workers"], found["resources_per_worker"]) == wanted
    assert found["use_gpu"] == ("GPU" in wanted[1])


def test_workers_that_can_never_be_placed_are_refused() -> None:
    with pytest.raises(StopRun, match="4 workers need 4 CPU and the cluster has 2"):
        _scaling(WorkersSpec(workers=4), {"CPU": 2})
    with pytest.raises(StopRun, match="1 workers need 1 GPU and the cluster has 0"):
        _scaling(WorkersSpec(gpus_per_worker=1), {"CPU": 2})


class waited_for:  # noqa: N801 - reads as what it does
    """Within, a row of update ``LATE`` is a pipe that nobody writes to: the run stands there until it is released."""

    def __init__(self, asked: TrainJob, folder: Path) -> None:
        self.path = folder / "files" / f"{row_of(asked.seed, LATE * 4, ROWS)}.png"

    def __enter__(self) -> Callable[[], None]:
        self.image = self.path.read_bytes()
        self.path.unlink()
        os.mkfifo(self.path)
        return self.release

    def release(self) -> None:
        beside = self.path.with_suffix(".tmp")
        beside.write_bytes(self.image)
        beside.replace(self.path)

    def __exit__(self, *_: object) -> None:
        self.release()


def quietly_beside(work: Callable[[], None], output: str, run: Callable[[], object]) -> None:
    """``run`` here, and ``work`` in a thread once the checkpoint of update ``LATE`` is on the storage."""
    from concurrent.futures import ThreadPoolExecutor

    def later() -> None:
        wait_until(lambda: saved(output) >= LATE)
        work()

    with ThreadPoolExecutor(1) as thread:
        worked = thread.submit(later)
        run()
        worked.result()


def saved(output: str) -> int:
    """Update of the last checkpoint that Ray Train knows of."""
    try:
        state = json.loads(storage.read_bytes(storage.join(output, "state", "checkpoint_manager_snapshot.json")))
    except Exception:  # not there yet, or half written
        return 0
    latest = state.get("latest_checkpoint_result") or {"metrics": {"step": 0}}
    return int(latest["metrics"]["step"])


def wait_until(done: Callable[[], bool]) -> None:
    """The test's own time limit is the only one."""
    while not done():
        time.sleep(0.05)


def workers_of(driver: int) -> list[int]:
    """Ray Train's worker processes below a driver."""
    parents: dict[int, int] = {}
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid, stat, title = int(folder.name), (folder / "stat").read_text(), (folder / "cmdline").read_text()
        except OSError:  # ended meanwhile
            continue
        parents[pid] = int(re.sub(r".*\) ", "", stat, flags=re.S).split()[1])
        if "RayTrainWorker" in title:
            found.append(pid)
    return [pid for pid in found if driver in ancestors(pid, parents)]


def ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid
