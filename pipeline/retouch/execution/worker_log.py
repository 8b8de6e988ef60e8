"""The workers of a run, recorded in its event log and its cost meter as their first blocks come back."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from retouch.execution.cost_meter import Meter
from retouch.execution.tracing import WORKER, WorkerPool
from retouch.outputs.event_log import EventLog


class WorkerLog:
    """Records the workers of one run, each once."""

    def __init__(self, events: EventLog, meter: Meter) -> None:
        self._events, self._meter = events, meter
        self._turns: dict[tuple[str, int], set[int]] = {}

    def on_cluster_ready(self, pool: WorkerPool) -> None:
        """Record the pool. Raises what ``Meter.on_cluster_ready`` raises."""
        self._meter.on_cluster_ready(pool)
        self._events.write("crew", actors=pool.actors, each=pool.each, device=pool.device)

    def on_block(self, rows: pa.Table) -> None:
        """Record the workers of committed rows, as ``tracing.block_report`` returns them."""
        for worker in _distinct(rows[WORKER]):
            process = worker["host"], worker["pid"]
            if process not in self._turns:
                self._meter.on_worker(*process, worker["device"], replaced=worker["replaced"])
                facts = {name: worker[name] for name in ("host", "pid", "device", "replaced")}
                self._events.write("worker", flush="later", **facts, loaded=round(worker["loaded"], 3))
            turns = self._turns.setdefault(process, set())
            if worker["retried"] and worker["turn"] not in turns:
                self._events.write("retried", flush="later", rows=worker["retried"])
            turns.add(worker["turn"])


def _distinct(workers: pa.ChunkedArray) -> list[dict[str, Any]]:
    """Return the facts of a block's workers, each block once."""
    table = pa.Table.from_arrays(workers.flatten(), names=[field.name for field in workers.type])
    rows: list[dict[str, Any]] = table.group_by(table.column_names, use_threads=False).aggregate([]).to_pylist()
    return rows
