"""Ray gives the same results as one process, whatever the pool, and after a kill."""

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
from retouch.execution.summary import Summary
from retouch.jobs.config import EditJob
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


def test_a_row_that_kills_every_worker_fails_and_all_others_are_edited(tmp_path: Path) -> None:
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


def test_a_block_is_reported_while_the_next_one_is_edited(tmp_path: Path) -> None:
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


def test_a_run_whose_driver_is_killed_resumes(tmp_path: Path) -> None:
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
