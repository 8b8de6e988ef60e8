"""``retouch status``: once, for programs, and for as long as a run goes."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from retouch import storage
from retouch.cli.app import main
from retouch.cli.status import readings
from retouch.execution.edit import run
from retouch.execution.plan import make_plan, open_run
from retouch.outputs import lease
from retouch.outputs.event_log import EventLog
from retouch.outputs.status import DIED, read_status
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["status", *arguments])
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("finished")
    job = painter_job(folder, write_dataset(folder, 6, {1: "raise"}), max_failure_rate=1.0)
    run(job, executor="local", console=Console(file=io.StringIO()))
    yield job.output
    shutil.rmtree(folder)


def test_it_says_counts_cost_workers_and_the_slowest_rows(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, finished)
    assert "painted: 6/6 rows done (5 success, 1 failed_to_edit), finished" in text
    assert "cost so far: unknown, no price for this device" in text
    assert "workers: " in text
    assert "slowest rows: 'row-" in text
    assert "min left" not in text, "nothing is left"


def test_json_has_the_same_and_the_price_table_is_the_one_that_is_named(
    finished: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prices.yaml").write_text("{currency: EUR, devices: [{names: [cpu], per_hour: 3.6}]}")
    found = json.loads(said(capsys, finished, "--json", "--prices", str(tmp_path / "prices.yaml")))
    assert (found["answered"], found["is_over"], found["state"]) == (6, True, "finished")
    assert found["statuses"]["failed_to_edit"] == 1
    assert found["spending"]["cost"] == pytest.approx(found["spending"]["seconds"]["cpu"] / 1000)
    assert found["spending"]["currency"] == "EUR"
    assert (found["lost"], found["retried"], len(found["workers"])) == (0, 0, 1)
    assert set(found["workers"][0]) == {"host", "pid", "device", "replaced"}


def test_watching_a_finished_run_says_it_once_and_ends(finished: str, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = said(capsys, finished, "--watch", "0.1").splitlines()
    assert "6/6 rows done" in line
    (line,) = said(capsys, finished, "--watch", "0.1", "--json").splitlines()
    assert json.loads(line)["is_over"]


def test_it_is_watched_from_beside_the_run_until_it_ends(tmp_path: Path) -> None:
    job = painter_job(
        tmp_path, write_dataset(tmp_path, 12), editor={"name": "tests.helpers.slow:SlowPainter", "weights": {}}
    )
    going = threading.Thread(
        target=run, args=(job,), kwargs={"executor": "local", "console": Console(file=io.StringIO())}
    )
    going.start()
    try:
        while not storage.exists(f"{job.output}/run.json"):
            going.join(0.05)
        seen = list(readings(lambda: read_status(job.output), job.output, 0.1))
    finally:
        going.join()
    assert len(seen) > 1
    assert [found.is_over for found in seen[:-1]] == [False] * (len(seen) - 1)
    assert (seen[-1].state, seen[-1].answered) == ("finished", 12)
    answered = [found.answered for found in seen]
    assert answered == sorted(answered)


def _begun(tmp_path: Path) -> str:
    """As a run leaves it that was killed when it had begun."""
    plan = make_plan(painter_job(tmp_path, write_dataset(tmp_path, 3)))
    open_run(plan)
    EventLog(plan.write.output).write("started", rows=3, left=3, executor="ray", epoch=1)
    return plan.write.output


def test_a_run_that_was_killed_on_this_machine_is_known_to_be_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = _begun(tmp_path)
    with lease.held(output):
        assert not read_status(output).is_over
    assert read_status(output).state == DIED
    assert DIED in said(capsys, output, "--watch", "0.1")


def test_a_run_elsewhere_whose_lease_stands_still_ends_the_watching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = _begun(tmp_path)
    with lease.held(output):
        holder = json.loads(Path(f"{output}/lease/000001.json").read_text())
    for file in Path(f"{output}/lease").iterdir():
        file.unlink()
    Path(f"{output}/lease/000001.json").write_text(json.dumps({**holder, "machine": "another one"}))
    assert not read_status(output).is_over, "from here nobody can tell at once"
    monkeypatch.setattr(lease, "SECONDS", 0.3)
    seen = list(readings(lambda: read_status(output), output, 0.1))
    assert [found.is_over for found in seen] == [False] * (len(seen) - 1) + [True]
    assert seen[-1].state == DIED
