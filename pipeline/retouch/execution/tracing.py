"""What a run records about itself: seconds per stage and the worker of each block, and the times of its phases.

Blocks carry these facts in columns of their own; what the executors yield has them in the columns ``seconds`` and
``worker``. They reach the event log, the cost meter and the probe of ``retouch plan``, and not the results table.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

SECONDS: Final = "seconds"  # struct of the stages below: a row's share of the time that its block took
STAGES: Final = ("decode", "edit", "write")
WORKER: Final = "worker"
REPORTED: Final = ("key", "status", "error_type", "error_message", "edit_seconds")  # of a result row, to the driver
_CARRIED: Final = "__retouch_{}"  # name of a column between the stages
_WORKER_TYPE: Final = pa.struct(
    [
        ("host", pa.string()),
        ("pid", pa.int64()),
        ("device", pa.string()),
        ("replaced", pa.bool_()),  # it took the place of an actor that died
        ("loaded", pa.float64()),  # seconds that loading editor and metrics took
        ("turn", pa.int64()),  # number of the block among the worker's, from 0
        ("began", pa.float64()),  # when editing the block began, seconds since 1970 by the host's clock
        ("retried", pa.int64()),  # rows of the block that were in flight when a worker died
    ]
)
# Phases of a run in this order. A phase that the run did not reach takes 0 seconds.
PHASES: Final = ("plan", "start", "load", "edit", "end")


@dataclass(frozen=True)
class WorkerPool:
    """The actors that a run pays for."""

    actors: int
    each: float  # GPUs per actor, or CPU cores if it has none
    device: str | None  # as ``devices.name_of`` names it; None if only the workers know
    capacity: int  # actors that the cluster has room for


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True)
class RunObserver:
    """Callbacks of a run, for what its executor reports besides the rows."""

    on_cluster_ready: Callable[[WorkerPool], None] = _ignore
    on_waiting: Callable[[str], None] = _ignore  # what the run waits for, one line
    totals: dict[str, float] = field(default_factory=dict)  # filled with the telemetry of all workers at the end


class WorkerFacts:
    """What a worker process adds to the blocks that it edits."""

    def __init__(self, device: str, loaded: float, *, replaced: bool = False) -> None:
        self._facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": device,
            "replaced": replaced,
            "loaded": loaded,
        }
        self._turn = 0

    def of_block(self, retried: int, began: float) -> dict[str, Any]:
        """Return the facts of the next block."""
        turn, self._turn = self._turn, self._turn + 1
        return {**self._facts, "turn": turn, "began": began, "retried": retried}


def timed(stage: str, table: pa.Table, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Run one stage on a block; each row of the result gets its share of the time.

    Args:
        stage: of ``STAGES``.
        table: a block.
        work: returns as many rows, and keeps columns that it does not know.
    """
    began = time.perf_counter()
    done = work(table)
    share = (time.perf_counter() - began) / max(done.num_rows, 1)
    return _with_column(done, stage, pa.repeat(pa.scalar(share, pa.float64()), done.num_rows))


def with_worker(table: pa.Table, facts: dict[str, Any]) -> pa.Table:
    """Return the block with its worker's facts in each row."""
    return _with_column(table, WORKER, pa.array([facts] * table.num_rows, _WORKER_TYPE))


def block_report(table: pa.Table, write: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Write a block and return what the driver needs of its rows: ``REPORTED``, ``seconds`` and ``worker``.

    Args:
        table: a block of outcomes.
        write: returns the result rows, in order.
    """
    rows = timed("write", table, write)
    taken = {name: (table if name != "write" else rows)[_CARRIED.format(name)] for name in STAGES}
    seconds = pa.StructArray.from_arrays([column.combine_chunks() for column in taken.values()], names=list(taken))
    return rows.select(REPORTED).append_column(SECONDS, seconds).append_column(WORKER, table[_CARRIED.format(WORKER)])


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    column = _CARRIED.format(name)
    kept = table.drop_columns([column]) if column in table.column_names else table
    return kept.append_column(column, values)


class Stopwatch:
    """Times the phases of one run, from the moment when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._marks: dict[str, float] = {}

    def on_planned(self) -> None:
        """The plan is made, and the output's lease is held."""
        self._marks["plan"] = time.perf_counter()

    def on_cluster_ready(self) -> None:
        """The cluster is ready."""
        self._marks["start"] = time.perf_counter()

    def on_block(self, rows: pa.Table) -> None:
        """A block is committed; ``rows`` as ``block_report`` returns them."""
        now = time.perf_counter()
        self._marks.setdefault("first", now)
        self._marks["edit"] = now
        worker = rows[WORKER][0].as_py()
        if not worker["turn"]:  # the worker's first block
            # Compares two clocks if the worker is on another machine.
            began = now - max(time.time() - worker["began"], 0.0)
            self._marks["load"] = min(self._marks.get("load", now), began)

    def phases(self) -> dict[str, float]:
        """Return the seconds of each phase so far, and the time until the first image as ``first_image``.

        ``plan`` comes before the executor, ``start`` ends when the cluster is ready, ``load`` when the first edit
        begins, ``edit`` with the last committed block.
        """
        found, before = {}, self._began
        for phase in PHASES[:-1]:
            at = max(self._marks.get(phase, before), before)
            found[phase], before = round(at - before, 3), at
        found["end"] = round(time.perf_counter() - before, 3)
        if "first" in self._marks:
            found["first_image"] = round(self._marks["first"] - self._began, 3)
        return found


def phases_line(phases: dict[str, float]) -> str:
    """``time: plan 1.2 s, start 4.1 s, load 9.0 s, first image after 16.2 s, edit 38.0 s, end 1.5 s``."""
    parts = {phase: f"{phase} {phases[phase]:.1f} s" for phase in PHASES}
    if "first_image" in phases:
        parts["load"] += f", first image after {phases['first_image']:.1f} s"
    return f"time: {', '.join(parts.values())}"
