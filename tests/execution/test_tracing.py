"""Blocks carry their seconds and worker to the driver, and not to the results; the phases of a run add up."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retouch.execution import tracing
from retouch.execution.executors import local
from retouch.execution.plan import make_plan, open_run
from retouch.execution.tracing import PHASES, WORKER, RunObserver, Stopwatch, WorkerFacts, WorkerPool, phases_line

from tests.helpers.datasets import painter_job, write_dataset


def test_each_row_has_its_share_of_what_its_block_took() -> None:
    block = pa.table({"key": ["a", "b", "c", "d"]})
    once = tracing.timed("decode", block, lambda table: table)
    (column,) = set(once.column_names) - {"key"}
    shares = once[column].to_pylist()
    assert len(set(shares)) == 1
    assert shares[0] > 0
    assert tracing.timed("decode", once, lambda table: table).column_names == once.column_names, "noted once"


def test_a_block_without_rows_stays_one() -> None:
    assert tracing.timed("edit", pa.table({"key": pa.array([], pa.string())}), lambda table: table).num_rows == 0


def test_a_worker_counts_its_blocks() -> None:
    worker = WorkerFacts("cpu", 1.5, replaced=True)
    assert [worker.of_block(retried, 7.5)["turn"] for retried in (0, 2)] == [0, 1]
    facts = worker.of_block(3, 7.5)
    assert (facts["device"], facts["loaded"], facts["replaced"], facts["retried"]) == ("cpu", 1.5, True, 3)


def test_the_driver_is_report_the_stages_and_the_worker_and_the_results_are_not(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 5))
    plan = make_plan(job)
    open_run(plan)
    pools: list[WorkerPool] = []
    blocks = list(local.execute(plan, RunObserver(pools.append)))
    assert pools == [WorkerPool(1, 1.0, pools[0].device, 1)]
    report = pa.concat_tables(blocks)
    assert report.column_names == [*tracing.REPORTED, "seconds", "worker"]
    assert report["key"].to_pylist() == [f"row-{number:03d}" for number in range(5)]
    for row in report.to_pylist():
        assert all(row["seconds"][stage] > 0 for stage in tracing.STAGES)
        assert row["seconds"]["edit"] >= row["edit_seconds"]
    assert [row["turn"] for row in report["worker"].to_pylist()] == [0, 0, 0, 1, 1]
    assert not [name for name in pq.read_table(tmp_path / "out" / "results").column_names if "retouch" in name]


def test_rows_that_a_writer_loses_are_found_out() -> None:
    facts = WorkerFacts("cpu", 0.0).of_block(0, 7.5)
    block = pa.table({"key": ["a", "b"]})
    for stage in ("decode", "edit"):
        block = tracing.timed(stage, block, lambda table: table)
    with pytest.raises(pa.ArrowInvalid):
        tracing.block_report(tracing.with_worker(block, facts), lambda table: _results(["a"]))


def _results(keys: list[str]) -> pa.Table:
    texts = pa.array([None] * len(keys), pa.string())
    columns = dict.fromkeys(tracing.REPORTED, texts)
    return pa.table({**columns, "key": keys, "edit_seconds": pa.array([0.0] * len(keys))})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which the test sets."""
    now = [100.0]
    monkeypatch.setattr(tracing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(tracing.time, "time", lambda: now[0] + 1e9)
    return now


def committed(turn: int, began: float) -> pa.Table:
    return pa.table({WORKER: [{"turn": turn, "began": began + 1e9}] * 2})


def test_the_phases_of_a_run_add_up_to_all_of_it(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] = 102.0
    watch.on_planned()
    clock[0] = 105.0
    watch.on_cluster_ready()
    clock[0] = 116.0
    watch.on_block(committed(0, 111.5))
    clock[0] = 117.0
    watch.on_block(committed(0, 113.5))  # another worker's, which began later
    clock[0] = 130.0
    watch.on_block(committed(1, 101.0))
    clock[0] = 131.5
    phases = watch.phases()
    assert phases == {"plan": 2.0, "start": 3.0, "load": 6.5, "edit": 18.5, "end": 1.5, "first_image": 16.0}
    assert sum(phases[phase] for phase in PHASES) == 31.5
    line = "time: plan 2.0 s, start 3.0 s, load 6.5 s, first image after 16.0 s, edit 18.5 s, end 1.5 s"
    assert phases_line(phases) == line


def test_a_run_that_has_nothing_left_to_do_has_neither_a_start_nor_a_first_image(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] = 101.0
    watch.on_planned()
    clock[0] = 103.0
    assert watch.phases() == {"plan": 1.0, "start": 0.0, "load": 0.0, "edit": 0.0, "end": 2.0}
    assert phases_line(watch.phases()) == "time: plan 1.0 s, start 0.0 s, load 0.0 s, edit 0.0 s, end 2.0 s"
