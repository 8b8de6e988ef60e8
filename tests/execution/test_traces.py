"""What a block tells of its way, and that none of it reaches the results."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retouch.execution import traces
from retouch.execution.executors import local
from retouch.execution.plan import make_plan, open_run
from retouch.execution.traces import Crew, Listener, Worker

from tests.helpers.datasets import painter_job, write_dataset


def test_each_row_has_its_share_of_what_its_block_took() -> None:
    block = pa.table({"key": ["a", "b", "c", "d"]})
    once = traces.timed("decode", block, lambda table: table)
    (column,) = set(once.column_names) - {"key"}
    shares = once[column].to_pylist()
    assert len(set(shares)) == 1
    assert shares[0] > 0
    assert traces.timed("decode", once, lambda table: table).column_names == once.column_names, "noted once"


def test_a_block_without_rows_stays_one() -> None:
    assert traces.timed("edit", pa.table({"key": pa.array([], pa.string())}), lambda table: table).num_rows == 0


def test_a_worker_counts_its_blocks() -> None:
    worker = Worker("cpu", 1.5, replaced=True)
    assert [worker.facts(retried, 7.5)["turn"] for retried in (0, 2)] == [0, 1]
    facts = worker.facts(3, 7.5)
    assert (facts["device"], facts["loaded"], facts["replaced"], facts["retried"]) == ("cpu", 1.5, True, 3)


def test_the_driver_is_told_the_stages_and_the_worker_and_the_results_are_not(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 5))
    plan = make_plan(job)
    open_run(plan)
    crews: list[Crew] = []
    blocks = list(local.execute(plan, Listener(crews.append)))
    assert crews == [Crew(1, 1.0, crews[0].device, 1)]
    told = pa.concat_tables(blocks)
    assert told.column_names == [*traces.TOLD, "seconds", "worker"]
    assert told["key"].to_pylist() == [f"row-{number:03d}" for number in range(5)]
    for row in told.to_pylist():
        assert all(row["seconds"][stage] > 0 for stage in traces.STAGES)
        assert row["seconds"]["edit"] >= row["edit_seconds"]
    assert [row["turn"] for row in told["worker"].to_pylist()] == [0, 0, 0, 1, 1]
    assert not [name for name in pq.read_table(tmp_path / "out" / "results").column_names if "retouch" in name]


def test_rows_that_a_writer_loses_are_found_out() -> None:
    facts = Worker("cpu", 0.0).facts(0, 7.5)
    block = pa.table({"key": ["a", "b"]})
    for stage in ("decode", "edit"):
        block = traces.timed(stage, block, lambda table: table)
    with pytest.raises(pa.ArrowInvalid):
        traces.told(traces.edited_by(block, facts), lambda table: _results(["a"]))


def _results(keys: list[str]) -> pa.Table:
    texts = pa.array([None] * len(keys), pa.string())
    columns = dict.fromkeys(traces.TOLD, texts)
    return pa.table({**columns, "key": keys, "edit_seconds": pa.array([0.0] * len(keys))})
