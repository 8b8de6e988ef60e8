"""What is read of a run from its storage: rates, costs, workers, losses."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from retouch.execution.edit import run
from retouch.jobs.prices import Prices
from retouch.outputs.status import read_status
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset

START = datetime(2026, 11, 26, tzinfo=UTC)
PRICES = Prices.model_validate({"currency": "USD", "devices": [{"names": ["cpu"], "per_hour": 3600}]})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Four answers of ten rows that were asked for; each test replaces its event log."""
    job = painter_job(tmp_path, write_dataset(tmp_path, 10))
    run(job, executor="local", limit=4, console=Console(file=io.StringIO()))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "out" / "run.json").write_text(json.dumps({**record, "rows": 10}))
    for file in (tmp_path / "out" / "lease").glob("*.released"):
        file.unlink()
    return tmp_path / "out"


def log(output: Path, *events: tuple[float, str, dict[str, Any]]) -> None:
    lines = [
        json.dumps({"time": (START + timedelta(seconds=at)).isoformat(), "event": name, **facts})
        for at, name, facts in events
    ]
    (output / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))


def spent(seconds: float) -> dict[str, Any]:
    return {"spent": {"seconds": {"cpu": seconds}, "cost": None, "currency": "USD"}}


def worker(pid: int, replaced: bool = False) -> dict[str, Any]:
    return {"host": "node", "pid": pid, "device": "cpu", "replaced": replaced, "loaded": 1.0}


def test_the_rate_is_that_of_the_work_and_not_of_the_start_which_is_not_done_again(output: Path) -> None:
    log(
        output,
        (0, "started", {}),
        (60, "answered", {"rows": 1, "done": 1, "failed": 0}),
        (66, "answered", {"rows": 3, "done": 4, "failed": 0}),
    )
    found = read_status(str(output), PRICES)
    assert found.rows_per_second == 0.5
    assert found.seconds_left == 12.0
    assert "0.50 rows/s, about 0.2 min left" in found.text()
    assert not found.is_over


def test_with_one_answer_alone_the_rate_is_from_the_start_on(output: Path) -> None:
    log(output, (0, "started", {}), (8, "answered", {"rows": 4, "done": 4, "failed": 0}))
    assert read_status(str(output), PRICES).rows_per_second == 0.5


def test_cost_is_of_all_calls_and_workers_are_of_the_latest(output: Path) -> None:
    log(
        output,
        (0, "started", {}),
        (1, "worker", worker(1)),
        (2, "retried", {"rows": 2}),
        (3, "stopped", {"reason": "interrupted", **spent(5.0)}),
        (10, "started", {}),
        (11, "crew", {"actors": 2, "each": 1.0, "device": "cpu"}),
        (12, "worker", worker(2)),
        (13, "worker", worker(3, replaced=True)),
        (14, "retried", {"rows": 1}),
        (15, "answered", {"rows": 4, "done": 4, "failed": 0, **spent(7.0)}),
    )
    found = read_status(str(output), PRICES)
    assert found.spending.cost == 12.0
    assert [worker.pid for worker in found.workers] == [2, 3]
    assert (found.actors, found.lost, found.retried) == (2, 1, 3)
    text = found.text()
    assert "cost so far: 12 USD (0.00333 h of cpu)" in text
    assert "workers: node/2 cpu, node/3 cpu" in text
    assert "lost: 1 workers died and were replaced, 3 rows were retried" in text


def test_a_stop_says_why_and_gives_no_time_that_is_left(output: Path) -> None:
    log(
        output,
        (0, "started", {}),
        (8, "answered", {"rows": 4, "done": 4, "failed": 0}),
        (9, "stopped", {"reason": "stopped at max_cost 5 USD"}),
    )
    found = read_status(str(output), PRICES)
    assert found.is_over
    assert found.seconds_left is None
    assert "stopped: stopped at max_cost 5 USD" in found.text()


def test_the_slowest_rows_come_first_and_are_few(output: Path) -> None:
    slowest = read_status(str(output), PRICES).slowest
    assert 1 <= len(slowest) <= 5
    assert [seconds for _, seconds in slowest] == sorted((seconds for _, seconds in slowest), reverse=True)


def test_many_workers_are_counted_and_not_all_named(output: Path) -> None:
    log(output, (0, "started", {}), *((1.0 + pid, "worker", worker(pid)) for pid in range(50)))
    text = read_status(str(output), PRICES).text()
    assert "node/7 cpu and 42 more" in text
    assert len(text) < 1000


def test_an_output_of_an_older_version_is_read_too(output: Path) -> None:
    (output / "events.jsonl").unlink()
    found = read_status(str(output), PRICES)
    assert (found.state, found.answered, found.spending.cost, found.workers) == ("not started", 4, 0.0, ())
