"""The workers of a run are in its event log, each once."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from retouch.execution.cost_meter import Meter
from retouch.execution.tracing import WorkerFacts, WorkerPool
from retouch.execution.worker_log import WorkerLog
from retouch.jobs.prices import Prices
from retouch.outputs.event_log import EventLog, read_events


def rows(*facts: dict[str, object]) -> pa.Table:
    return pa.table({"key": [str(number) for number in range(len(facts))], "worker": list(facts)})


def test_each_worker_and_each_block_that_was_tried_again_is_noted_once(tmp_path: Path) -> None:
    meter = Meter(Prices(currency="USD"))
    events = EventLog(str(tmp_path))
    workers = WorkerLog(events, meter)
    workers.on_cluster_ready(WorkerPool(2, 1.0, None, 5))
    one, two = WorkerFacts("cpu", 2.0), WorkerFacts("big", 3.0, replaced=True)
    first, again, third = one.of_block(0, 7.5), {**two.of_block(3, 7.5), "pid": 7}, one.of_block(0, 7.5)
    workers.on_block(rows(first, first, again))
    workers.on_block(rows(again, third))
    events.write("finished")
    noted = read_events(str(tmp_path))
    assert [event["event"] for event in noted] == ["crew", "worker", "worker", "retried", "finished"]
    assert (noted[0]["actors"], noted[0]["each"]) == (2, 1.0)
    assert [(event["device"], event["replaced"], event["loaded"]) for event in noted[1:3]] == [
        ("cpu", False, 2.0),
        ("big", True, 3.0),
    ]
    assert noted[3]["rows"] == 3
    assert set(meter.seconds) == {"cpu", "big"}
