"""Who works on a run, from what its rows tell: to its diary and its meter. Knows no executor."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from retouch.execution.cost_meter import Meter
from retouch.execution.traces import WORKER, Crew
from retouch.outputs.event_log import EventLog


class Workers:
    """The workers of one run, each noted when it first answers."""

    def __init__(self, events: EventLog, meter: Meter) -> None:
        self._events, self._meter = events, meter
        self._turns: dict[tuple[str, int], set[int]] = {}

    def met(self, crew: Crew) -> None:
        """The cluster is there. Raises what ``Meter.met`` raises."""
        self._meter.met(crew)
        self._events.write("crew", actors=crew.actors, each=crew.each, device=crew.device)

    def saw(self, rows: pa.Table) -> None:
        """Committed rows, as ``traces.told`` has them."""
        for worker in _blocks(rows[WORKER]):
            who = worker["host"], worker["pid"]
            if who not in self._turns:
                self._meter.saw(*who, worker["device"], replaced=worker["replaced"])
                facts = {name: worker[name] for name in ("host", "pid", "device", "replaced")}
                self._events.write("worker", flush="later", **facts, loaded=round(worker["loaded"], 3))
            turns = self._turns.setdefault(who, set())
            if worker["retried"] and worker["turn"] not in turns:
                self._events.write("retried", flush="later", rows=worker["retried"])
            turns.add(worker["turn"])


def _blocks(workers: pa.ChunkedArray) -> list[dict[str, Any]]:
    """What the rows say of their workers, once a block."""
    table = pa.Table.from_arrays(workers.flatten(), names=[field.name for field in workers.type])
    told: list[dict[str, Any]] = table.group_by(table.column_names, use_threads=False).aggregate([]).to_pylist()
    return told
