"""The product's executor: the same answers as in one process, whatever the pool, and after a kill."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch.errors import StopRun
from retouch.execution.edit import run
from retouch.execution.executors.ray.edit import Resources, at_once, bounds, resources, to_begin_with
from retouch.execution.summary import Summary
from retouch.jobs.config import EditJob, RaySpec
from retouch.outputs import results
from retouch.outputs.event_log import read_events
from retouch.outputs.verify import verify_output
from rich.console import Console

from tests.helpers.answers import answered
from tests.helpers.datasets import painter_job, write_dataset

pytestmark = pytest.mark.ray


def quiet(job: EditJob, **options: Any) -> Summary:
    return run(job, console=Console(file=io.StringIO()), **options)


def hashes(output: str) -> dict[str, str]:
    table = results.read(output, ["key", "sha256"])
    return dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def test_ray_and_this_process_give_the_same_files_with_one_actor_and_with_two(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 13, {4: "raise"})
    outputs = {}
    for name, options in {
        "local": {"executor": "local"},
        "one": {"executor": "ray", "actors": 1},
        "two": {"executor": "ray", "actors": 2},
    }.items():
        ray = {"batch_size": 4, "rows_per_block": 3, "actors": options.pop("actors", 1)}
        job = painter_job(tmp_path, manifest, output=str(tmp_path / name), candidates=2, ray=ray, max_failure_rate=1.0)
        summary = quiet(job, **options)
        assert (summary.answered_now, summary.statuses["failed_to_edit"]) == (13, 1)
        proof = verify_output(job.output)
        assert proof.ok, proof.text()
        outputs[name] = hashes(job.output)
    assert outputs["local"] == outputs["one"] == outputs["two"]


def test_a_row_that_kills_every_worker_is_answered_so_and_all_others_are_edited(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 9, {4: "crash"})
    ray = {"batch_size": 4, "rows_per_block": 3, "actors": 2}
    job = painter_job(tmp_path, manifest, ray=ray, max_failure_rate=1.0)
    summary = quiet(job)
    assert (summary.statuses["success"], summary.statuses["failed_to_edit"]) == (8, 1)
    lost = next(row for row in results.read(job.output).to_pylist() if row["status"] != "success")
    assert (lost["key"], lost["error_type"]) == ("row-004", "WorkerLost")
    assert verify_output(job.output).ok
    clean = painter_job(tmp_path, write_dataset(tmp_path / "clean", 9), output=str(tmp_path / "clean-out"), ray=ray)
    quiet(clean, executor="local")
    assert {k: v for k, v in hashes(clean.output).items() if k != "row-004"} == {
        k: v for k, v in hashes(job.output).items() if k != "row-004"
    }


def test_weights_that_a_worker_cannot_load_stop_the_run_in_one_line(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 2), metrics=[{"name": "clip_score"}])
    with pytest.raises(StopRun, match="clip") as error:
        quiet(job)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_a_block_is_heard_of_while_the_next_one_is_edited(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    manifest = write_dataset(tmp_path, 3, dict.fromkeys(range(3), str(heard)))
    editor = {"name": "tests.helpers.slow:WaitingPainter", "weights": {}}
    ray = {"batch_size": 1, "rows_per_block": 1, "actors": 1}
    job = painter_job(tmp_path, manifest, editor=editor, ray=ray, max_failure_rate=1.0)

    def tell() -> None:
        for _ in _until(lambda: any(event["event"] == "answered" for event in read_events(job.output))):
            pass
        heard.touch()

    teller = threading.Thread(target=tell)
    teller.start()
    assert quiet(job).statuses["success"] == 3
    teller.join()


def test_a_pool_that_begins_with_one_editor_is_soon_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retouch.execution.executors.ray.edit.to_begin_with", lambda *_args, **_options: 1)
    (tmp_path / "met").mkdir()
    manifest = write_dataset(tmp_path, 8, dict.fromkeys(range(8), str(tmp_path / "met")))
    editor = {"name": "tests.helpers.slow:MeetingPainter", "weights": {}}
    ray = {"batch_size": 1, "rows_per_block": 1, "actors": 2}
    assert quiet(painter_job(tmp_path, manifest, editor=editor, ray=ray)).statuses["success"] == 8


def test_a_run_leaves_ray_datas_settings_as_they_were(tmp_path: Path) -> None:
    """A later pipeline of the same program would take along who this run reports to, which ends the process."""
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.copy()
    quiet(painter_job(tmp_path, write_dataset(tmp_path, 2)))
    assert DataContext.get_current() is context
    assert not context.custom_execution_callback_classes
    assert vars(context).keys() == vars(before).keys()
    assert (context.enable_progress_bars, context.execution_no_progress_timeout_s) == (
        before.enable_progress_bars,
        before.execution_no_progress_timeout_s,
    )


def test_a_driver_that_is_killed_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    write_dataset(tmp_path, 40)
    job = painter_job(
        tmp_path,
        "manifest.parquet",
        output="out",
        editor={"name": "tests.helpers.slow:SlowPainter", "weights": {}},
        ray={"batch_size": 2, "rows_per_block": 2, "actors": 2},
    )
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-P", "-m", "retouch", "run", "job.yaml"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        for _ in _until(lambda: len(list((tmp_path / "out" / "results").glob("*.parquet"))) >= 3):
            assert first.poll() is None, "the run ended before it could be killed"
        first.send_signal(signal.SIGKILL)
    output = str(tmp_path / "out")
    committed = len(answered(output))
    assert 0 < committed < 40
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "rows: 40 = 40 success" in again.stdout
    answered_now = int(again.stdout.split("this run: ")[1].split()[0])
    # Workers of the killed driver may commit what they had in hand after it is gone; nothing is done twice for that.
    assert answered_now <= 40 - committed
    assert verify_output(output).ok


def _until(done: Any, seconds: float = 120) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "nothing was committed in time"
        yield
        time.sleep(0.05)


def test_few_blocks_start_few_processes_for_their_stages() -> None:
    on_cpus, on_gpus = Resources(2, 0.0, 1.0), Resources(8, 1.0, 0.0)
    assert [at_once(blocks, on_cpus, 2) for blocks in (1, 16, 17, 1000)] == [1, 1, 2, 63]
    assert [at_once(blocks, on_gpus, 8) for blocks in (8, 64, 1000)] == [8, 8, 63]


@pytest.mark.parametrize(
    ("spec", "gpus", "cores", "may_grow", "wanted"),
    [
        ({}, 0.0, 2, False, 1),
        ({}, 0.0, 16, False, 4),  # they do not hold one another up
        ({}, 0.0, 2, True, 4),  # the others have machines of their own
        ({}, 1.0, 2, False, 4),
        ({"actors": 4}, 0.0, 2, False, 4),  # as it was told
    ],
)
def test_on_few_cores_one_editor_loads_before_the_others(
    spec: dict[str, Any], gpus: float, cores: int, may_grow: bool, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert to_begin_with(RaySpec(**spec), Resources(4, gpus, 1.0), 4, may_grow=may_grow) == wanted


@pytest.mark.parametrize(
    ("spec", "cluster", "wanted"),
    [
        ({}, {"CPU": 8, "GPU": 4}, Resources(4, 1.0, 0.0)),  # an actor a GPU, and no CPU beside it
        ({"gpus_per_actor": 0.5}, {"CPU": 8, "GPU": 2}, Resources(4, 0.5, 0.0)),
        ({}, {"CPU": 4}, Resources(3, 0.0, 1.0)),  # a CPU stays free for decode and write
        ({}, {"CPU": 1}, Resources(1, 0.0, 1.0)),
        ({"gpus_per_actor": 0}, {"CPU": 4, "GPU": 2}, Resources(3, 0.0, 1.0)),
        ({"resources": {"edit": 1}}, {"CPU": 9, "edit": 2}, Resources(2, 0.0, 1.0)),
    ],
)
def test_the_pool_follows_what_the_cluster_has(
    spec: dict[str, Any], cluster: dict[str, float], wanted: Resources
) -> None:
    assert resources(RaySpec(**spec), cluster) == wanted


@pytest.mark.parametrize(
    ("spec", "said"), [({"gpus_per_actor": 1}, "wants 1 GPU"), ({"resources": {"edit": 1}}, "wants 1 of 'edit'")]
)
def test_a_pool_that_can_never_be_placed_is_refused(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(StopRun, match=said):
        resources(RaySpec(**spec), {"CPU": 4})


@pytest.mark.parametrize(
    ("spec", "pool", "may_grow", "wanted"),
    [
        ({}, Resources(2, 1.0, 0.0), True, (2, 20)),  # all that there is, and what joins
        ({}, Resources(2, 1.0, 0.0), False, (2, 2)),
        ({}, Resources(50, 1.0, 0.0), True, (20, 20)),  # more than blocks would stand idle
        ({"actors": 4}, Resources(1, 1.0, 0.0), True, (4, 4)),  # three wait for a node
        ({"actors": 4, "resources": {"edit": 1}}, Resources(1, 0.0, 1.0), True, (4, 4)),
        ({"actors": 4}, Resources(1, 0.0, 1.0), True, (1, 4)),  # a CPU stays free for decode and write
        ({"actors": 1}, Resources(3, 0.0, 1.0), True, (1, 1)),
    ],
)
def test_a_pool_grows_as_far_as_it_was_told(
    spec: dict[str, Any], pool: Resources, may_grow: bool, wanted: tuple[int, int]
) -> None:
    assert bounds(RaySpec(**spec), pool, 20, may_grow=may_grow) == wanted
