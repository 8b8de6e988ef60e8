"""How far a run has come, read from storage alone: during the run, and years after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow.compute as pc

from retouch.jobs.prices import Prices, load
from retouch.outputs import lease, results
from retouch.outputs.costs import Spending, total_spending
from retouch.outputs.event_log import Call, Worker, read_calls
from retouch.outputs.run_record import read_run
from retouch.schema import STATUSES

NOT_STARTED: Final = "not started"
STARTED: Final = "started"
RUNNING: Final = (NOT_STARTED, STARTED)  # states after which more rows may come
DIED: Final = "stopped unexpectedly; run the same command again to resume"
SLOWEST: Final = 5
_MAX_WORKERS: Final = 8  # listed in the text


@dataclass(frozen=True)
class Status:
    """The state of a run: progress, cost and workers."""

    name: str
    rows: int
    statuses: dict[str, int]
    state: str  # NOT_STARTED, STARTED, stopped, finished, or DIED
    reason: str | None  # why it stopped
    rows_per_second: float | None  # of the latest call
    seconds_left: float | None
    spending: Spending
    slowest: tuple[tuple[str, float], ...]  # key and edit_seconds
    workers: tuple[Worker, ...]  # that committed rows in the latest call
    actors: int | None  # requested by the latest call
    lost: int  # workers of the latest call that replaced one that died
    retried: int  # rows done again because a worker died with them in flight, of all calls

    @property
    def answered(self) -> int:
        """Rows that are done."""
        return sum(self.statuses.values())

    @property
    def is_over(self) -> bool:
        """Whether no run is known to be working."""
        return self.state not in RUNNING

    def text(self) -> str:
        """Return a report of a few lines."""
        return "\n".join([self.line(), *self._rate(), *self._cost(), *self._workers(), *self._slowest()])

    def line(self) -> str:
        """Return ``quickstart: 12/32 rows done (11 success, 1 failed_to_load), started``."""
        counts = ", ".join(f"{n} {status}" for status, n in self.statuses.items() if n) or "none"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.name}: {self.answered}/{self.rows} rows done ({counts}), {self.state}{reason}"

    def record(self) -> dict[str, Any]:
        """Return the JSON object that ``retouch status --json`` prints."""
        return {**asdict(self), "answered": self.answered, "is_over": self.is_over}

    def _rate(self) -> Iterator[str]:
        if self.seconds_left is not None:
            yield f"{self.rows_per_second:.2f} rows/s, about {self.seconds_left / 60:.1f} min left"

    def _cost(self) -> Iterator[str]:
        used = ", ".join(f"{amount / 3600:.3g} h of {name}" for name, amount in self.spending.seconds.items())
        if used:
            cost = self.spending.cost
            money = "unknown, no price for this device" if cost is None else f"{cost:.4g} {self.spending.currency}"
            yield f"cost so far: {money} ({used})"

    def _workers(self) -> Iterator[str]:
        if self.workers:
            named = [f"{worker.host}/{worker.pid} {worker.device}" for worker in self.workers[:_MAX_WORKERS]]
            more = f" and {len(self.workers) - _MAX_WORKERS} more" if len(self.workers) > _MAX_WORKERS else ""
            yield f"workers: {', '.join(named)}{more}"
        if self.lost or self.retried:
            yield f"lost: {self.lost} workers died and were replaced, {self.retried} rows were retried"

    def _slowest(self) -> Iterator[str]:
        if self.slowest:
            yield f"slowest rows: {', '.join(f'{key!r} {seconds:.1f} s' for key, seconds in self.slowest)}"


def read_status(output: str, prices: Prices | None = None) -> Status:
    """Return the state of a run.

    Args:
        output: the output folder.
        prices: for calls that recorded no cost; the default price table if None.

    Raises:
        OutputError: the folder holds no run.
    """
    record = read_run(output)
    table = results.read(output, ["key", "status", "edit_seconds"])
    counted = Counter(table["status"].to_pylist())
    calls = read_calls(output)
    latest = calls[-1] if calls else None
    state = latest.state if latest else NOT_STARTED
    if state == STARTED and lease.is_left(output):
        state = DIED
    rate, left = _rate(latest) if latest else None, record["rows"] - table.num_rows
    return Status(
        name=record["job"]["name"],
        rows=record["rows"],
        statuses={status: counted[status] for status in STATUSES},
        state=state,
        reason=latest.reason if latest else None,
        rows_per_second=rate,
        seconds_left=left / rate if state in RUNNING and rate and left > 0 else None,
        spending=total_spending(calls, prices or load()),
        slowest=_slowest(table),
        workers=latest.workers if latest else (),
        actors=latest.actors if latest else None,
        lost=sum(worker.replaced for worker in latest.workers) if latest else 0,
        retried=sum(call.retried for call in calls),
    )


def _slowest(table: Any) -> tuple[tuple[str, float], ...]:
    timed = table.filter(pc.greater(table["edit_seconds"], 0.0))
    order = pc.sort_indices(timed, [("edit_seconds", "descending"), ("key", "ascending")])[:SLOWEST]
    rows = timed.select(["key", "edit_seconds"]).take(order)
    return tuple(zip(rows["key"].to_pylist(), rows["edit_seconds"].to_pylist(), strict=True))


def _rate(call: Call) -> float | None:
    """Return a call's rows per second, from its first block on because start-up happens only once."""
    if not call.blocks:
        return None
    rows, since = call.rows - call.blocks[0].rows, call.blocks[0].time
    if not rows:
        rows, since = call.rows, call.start
    seconds = call.blocks[-1].time - since
    return rows / seconds if seconds > 0 else None
