"""The event log of an output, ``events.jsonl``: what happened when, readable long after the cluster is gone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from retouch import storage
from retouch.errors import ObjectMissing
from retouch.redaction import redacted_all

EVENTS_FILE: Final = "events.jsonl"
INTERVAL: Final = 30.0  # seconds between uploads of frequent events: object stores cannot append, so all is put again
Flush = Literal["now", "by interval", "later"]


class EventLog:
    """Appends events to an output's log, after those of earlier calls."""

    def __init__(self, output: str) -> None:
        self._uri = storage.join(output, EVENTS_FILE)
        try:
            self._text = storage.read_bytes(self._uri).decode()
        except ObjectMissing:
            self._text = ""
        self._flushed = 0.0

    def write(self, event: str, /, *, flush: Flush = "now", **facts: Any) -> None:
        """Append an event.

        Args:
            event: its name.
            flush: when it goes to storage: now; unless one by interval did within the last ``INTERVAL`` seconds; or
                later, with the next event that is flushed.
            facts: its other fields.
        """
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._text += json.dumps({"time": stamp, "event": event, **redacted_all(facts)}) + "\n"
        due = flush == "by interval" and time.monotonic() - self._flushed >= INTERVAL
        if flush == "now" or due:
            storage.write_bytes(self._uri, self._text.encode())
        if due:
            self._flushed = time.monotonic()


@dataclass(frozen=True)
class Worker:
    """A worker process that committed rows."""

    host: str
    pid: int
    device: str
    replaced: bool  # it took the place of one that died


@dataclass(frozen=True)
class Block:
    """Rows that were committed together."""

    time: float  # POSIX seconds
    rows: int
    edit_seconds: float | None  # in forward passes; None in logs of versions that did not record it


@dataclass(frozen=True)
class Call:
    """One call of ``retouch run`` on an output, from its ``started`` event to the next call's."""

    start: float  # POSIX seconds
    state: str  # the name of its last event among started, stopped and finished
    reason: str | None  # why it stopped
    actors: int | None  # requested
    workers: tuple[Worker, ...]
    blocks: tuple[Block, ...]  # in order
    retried: int  # rows done again because a worker died with them in flight
    spent: Mapping[str, Any] | None  # the last ``spent``: device-seconds by device, cost, currency

    @property
    def rows(self) -> int:
        """Rows that it committed."""
        return sum(block.rows for block in self.blocks)


def read_events(output: str) -> list[dict[str, Any]]:
    """Return the events of an output, oldest first; none where it has no log."""
    try:
        text = storage.read_bytes(storage.join(output, EVENTS_FILE)).decode()
    except ObjectMissing:
        return []
    return [json.loads(line) for line in text.splitlines()]


def read_calls(output: str) -> list[Call]:
    """Return the calls of ``retouch run`` on an output, oldest first."""
    return parse_calls(read_events(output))


def parse_calls(events: Iterable[Mapping[str, Any]]) -> list[Call]:
    """Return the calls that wrote these events."""
    return [_call(events) for events in _by_call(events)]


def _by_call(events: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[Mapping[str, Any]]]:
    call: list[Mapping[str, Any]] = []
    for event in events:
        if event["event"] == "started" and call:
            yield call
            call = []
        if call or event["event"] == "started":
            call.append(event)
    if call:
        yield call


def _call(events: Sequence[Mapping[str, Any]]) -> Call:
    def named(*names: str) -> list[Mapping[str, Any]]:
        return [event for event in events if event["event"] in names]

    last, pool = named("started", "stopped", "finished")[-1], named("crew")
    return Call(
        start=_time(events[0]),
        state=last["event"],
        reason=last.get("reason"),
        actors=pool[0]["actors"] if pool else None,
        workers=tuple(Worker(e["host"], e["pid"], e["device"], e["replaced"]) for e in named("worker")),
        blocks=tuple(Block(_time(e), e["rows"], e.get("edit_seconds")) for e in named("answered")),
        retried=sum(event["rows"] for event in named("retried")),
        spent=next((event["spent"] for event in reversed(events) if event.get("spent")), None),
    )


def _time(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
