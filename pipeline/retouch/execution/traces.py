"""What a block tells of its way: the seconds of each station, and who edited it. Knows no station, and no Ray.

Rows travel with these facts in columns of their own, and what the executors yield has them in ``seconds`` and
``worker``. They reach the run's diary and the probe, and never the results table.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

SECONDS: Final = "seconds"  # struct of the stages below: a row's share of what its block took there
STAGES: Final = ("decode", "edit", "write")
WORKER: Final = "worker"
TOLD: Final = ("key", "status", "error_type", "error_message", "edit_seconds")  # of a results row, to the driver
_TRAVELLING: Final = "__retouch_{}"
_WORKER_TYPE: Final = pa.struct(
    [
        ("host", pa.string()),
        ("pid", pa.int64()),
        ("device", pa.string()),
        ("replaced", pa.bool_()),  # it stands where another one died
        ("loaded", pa.float64()),  # seconds that loading editor and metrics took
        ("turn", pa.int64()),  # number of the block among the worker's, from 0
        ("began", pa.float64()),  # when the block's edit began, seconds since 1970 by the host's clock
        ("retried", pa.int64()),  # rows of the block that had been in hand when a worker died
    ]
)


@dataclass(frozen=True)
class Crew:
    """The workers that a run pays for."""

    actors: int
    each: float  # GPUs an actor, or CPU cores where it has none
    device: str | None  # as ``devices.name_of`` has it; None where only the workers know
    pool: int  # actors that there is room for


def _unheard(_: object) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Listener:
    """What an executor says beside the rows."""

    met: Callable[[Crew], None] = _unheard  # who will work, as soon as the cluster is there
    say: Callable[[str], None] = _unheard  # what is waited for, a line for people
    figures: dict[str, float] = field(default_factory=dict)  # gets the sums of all workers' figures in the end


class Worker:
    """Who edits in this process."""

    def __init__(self, device: str, loaded: float, *, replaced: bool = False) -> None:
        self._facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": device,
            "replaced": replaced,
            "loaded": loaded,
        }
        self._turn = 0

    def facts(self, retried: int, began: float) -> dict[str, Any]:
        """What each row of the block that was just edited says of it."""
        turn, self._turn = self._turn, self._turn + 1
        return {**self._facts, "turn": turn, "began": began, "retried": retried}


def timed(stage: str, table: pa.Table, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """``work``'s table, each row with its share of the seconds that it took.

    Args:
        stage: of ``STAGES``.
        table: a block.
        work: a station; it gives as many rows and keeps columns that it does not know.
    """
    began = time.perf_counter()
    done = work(table)
    share = (time.perf_counter() - began) / max(done.num_rows, 1)
    return _with(done, stage, pa.repeat(pa.scalar(share, pa.float64()), done.num_rows))


def edited_by(table: pa.Table, facts: dict[str, Any]) -> pa.Table:
    """The block with its worker in each row."""
    return _with(table, WORKER, pa.array([facts] * table.num_rows, _WORKER_TYPE))


def told(table: pa.Table, write: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Write a block, and give what the driver is told of its rows: ``TOLD``, ``seconds`` and ``worker``.

    Args:
        table: a block of answers.
        write: gives the results rows, in order.
    """
    rows = timed("write", table, write)
    way = {name: (table if name != "write" else rows)[_TRAVELLING.format(name)] for name in STAGES}
    seconds = pa.StructArray.from_arrays([column.combine_chunks() for column in way.values()], names=list(way))
    return rows.select(TOLD).append_column(SECONDS, seconds).append_column(WORKER, table[_TRAVELLING.format(WORKER)])


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    column = _TRAVELLING.format(name)
    kept = table.drop_columns([column]) if column in table.column_names else table
    return kept.append_column(column, values)
