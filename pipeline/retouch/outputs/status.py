"""How far a run is, read from storage alone. Knows no cluster, so it answers during a run and years after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

import pyarrow.compute as pc

from retouch.execution.cost_meter import Spending, spent
from retouch.jobs.prices import Prices, load
from retouch.outputs import lease, results
from retouch.outputs.event_log import read_events
from retouch.outputs.run_record import read_run
from retouch.schema import STATUSES

RUNNING: Final = ("not started", "started")  # states after which more may come
DIED: Final = "died without a word; the same command goes on"
SLOWEST: Final = 5
_MANY_WORKERS: Final = 8  # that the text names one by one


@dataclass(frozen=True)
class Status:
    """How far a run is, what it costs, and who works on it."""

    name: str
    rows: int
    statuses: dict[str, int]
    state: str  # started, stopped, finished, or that it died
    reason: str | None  # of a stop
    rows_per_second: float | None  # of the latest call, from its first answers on; from its start while that is all
    seconds_left: float | None
    spending: Spending
    slowest: tuple[tuple[str, float], ...]  # key and edit_seconds, of all answers
    workers: tuple[dict[str, Any], ...]  # host, pid, device, replaced; of those that answered in the latest call
    actors: int | None  # that the latest call asked for
    lost: int  # workers of the latest call that stand where another one died
    retried: int  # rows done again since a worker died with them in hand, of all calls

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return sum(self.statuses.values())

    @property
    def is_over(self) -> bool:
        """Whether no run is at work as far as can be seen."""
        return self.state not in RUNNING

    def text(self) -> str:
        """A few lines for people."""
        return "\n".join([self.line(), *self._rate(), *self._cost(), *self._workers(), *self._slowest()])

    def line(self) -> str:
        """``quickstart: 12/32 rows answered (11 success, 1 failed_to_load), started``."""
        counts = ", ".join(f"{n} {status}" for status, n in self.statuses.items() if n) or "none"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.name}: {self.answered}/{self.rows} rows answered ({counts}), {self.state}{reason}"

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "answered": self.answered, "is_over": self.is_over}

    def _rate(self) -> Iterator[str]:
        if self.seconds_left is not None:
            yield f"{self.rows_per_second:.2f} rows/s, about {self.seconds_left / 60:.1f} min left at that rate"

    def _cost(self) -> Iterator[str]:
        used = ", ".join(f"{amount / 3600:.3g} h of {name}" for name, amount in self.spending.seconds.items())
        if used:
            cost = self.spending.cost
            money = "no price known for it" if cost is None else f"{cost:.4g} {self.spending.currency}"
            yield f"cost so far: {money} ({used})"

    def _workers(self) -> Iterator[str]:
        if self.workers:
            named = [f"{w['host']}/{w['pid']} {w['device']}" for w in self.workers[:_MANY_WORKERS]]
            more = f" and {len(self.workers) - _MANY_WORKERS} more" if len(self.workers) > _MANY_WORKERS else ""
            yield f"workers: {', '.join(named)}{more}"
        if self.lost or self.retried:
            yield f"lost: {self.lost} workers died and were replaced, {self.retried} rows were tried again for it"

    def _slowest(self) -> Iterator[str]:
        if self.slowest:
            yield f"slowest rows: {', '.join(f'{key!r} {seconds:.1f} s' for key, seconds in self.slowest)}"


def read_status(output: str, prices: Prices | None = None) -> Status:
    """Status of a run's output.

    Args:
        output: the output folder.
        prices: for runs that noted no cost; the table in force where None.

    Raises:
        OutputError: there is no run.
    """
    record = read_run(output)
    table = results.read(output, ["key", "status", "edit_seconds"])
    counted = Counter(table["status"].to_pylist())
    events = read_events(output)
    latest = _latest(events)
    states = [event for event in events if event["event"] in ("started", "stopped", "finished")]
    state = states[-1]["event"] if states else "not started"
    rate, left = _rate(latest), record["rows"] - table.num_rows
    going = state in RUNNING and not (died := state == "started" and lease.is_left(output))
    workers = tuple(_facts(event) for event in latest if event["event"] == "worker")
    return Status(
        name=record["job"]["name"],
        rows=record["rows"],
        statuses={status: counted[status] for status in STATUSES},
        state=DIED if state == "started" and died else state,
        reason=states[-1].get("reason") if states else None,
        rows_per_second=rate,
        seconds_left=left / rate if going and rate and left > 0 else None,
        spending=spent(events, prices or load()),
        slowest=_slowest(table),
        workers=workers,
        actors=next((event["actors"] for event in latest if event["event"] == "crew"), None),
        lost=sum(bool(worker["replaced"]) for worker in workers),
        retried=sum(event["rows"] for event in events if event["event"] == "retried"),
    )


def _latest(events: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The diary of the latest call."""
    starts = [number for number, event in enumerate(events) if event["event"] == "started"]
    return events[starts[-1] :] if starts else []


def _facts(event: Mapping[str, Any]) -> dict[str, Any]:
    return {name: event[name] for name in ("host", "pid", "device", "replaced")}


def _slowest(table: Any) -> tuple[tuple[str, float], ...]:
    timed = table.filter(pc.greater(table["edit_seconds"], 0.0))
    order = pc.sort_indices(timed, [("edit_seconds", "descending"), ("key", "ascending")])[:SLOWEST]
    rows = timed.select(["key", "edit_seconds"]).take(order)
    return tuple(zip(rows["key"].to_pylist(), rows["edit_seconds"].to_pylist(), strict=True))


def _rate(call: Sequence[Mapping[str, Any]]) -> float | None:
    """Rows a second of a call. From its first answers on, for what starts it is not done again."""
    answers = [(_time(event), event["done"]) for event in call if event["event"] == "answered"]
    if not answers:
        return None
    (first, before), (last, done) = answers[0], answers[-1]
    if done == before:
        first, before = _time(call[0]), 0
    seconds = (last - first).total_seconds()
    return (done - before) / seconds if seconds > 0 else None


def _time(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"])
