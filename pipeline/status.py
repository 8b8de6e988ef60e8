"""How far a run is, read from storage alone. Knows no cluster, so it answers during a run and years after."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline import results, storage
from pipeline.errors import ObjectMissing
from pipeline.events import EVENTS_FILE
from pipeline.record import read_run
from pipeline.schema import STATUSES


@dataclass(frozen=True)
class Status:
    """Counts and rate of a run."""

    name: str
    rows: int
    statuses: dict[str, int]
    state: str  # the last event but "answered": started, stopped, finished
    rows_per_second: float | None

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return sum(self.statuses.values())

    def text(self) -> str:
        """A few lines for people."""
        counts = ", ".join(f"{n} {status}" for status, n in self.statuses.items() if n) or "none"
        lines = [f"{self.name}: {self.answered}/{self.rows} rows answered ({counts}), {self.state}"]
        if self.rows_per_second and self.answered < self.rows:
            left = (self.rows - self.answered) / self.rows_per_second
            lines.append(f"{self.rows_per_second:.2f} rows/s, about {left / 60:.1f} min left at that rate")
        return "\n".join(lines)


def read_status(output: str) -> Status:
    """Status of a run's output. Raises OutputError where there is no run."""
    record = read_run(output)
    counted = Counter(status for _, status in results.answered(output).values())
    events = _events(output)
    states = [event["event"] for event in events if event["event"] != "answered"]
    return Status(
        name=record["job"]["name"],
        rows=record["rows"],
        statuses={status: counted[status] for status in STATUSES},
        state=states[-1] if states else "not started",
        rows_per_second=_rate(events),
    )


def _events(output: str) -> list[dict[str, Any]]:
    try:
        text = storage.read_bytes(storage.join(output, EVENTS_FILE)).decode()
    except ObjectMissing:
        return []
    return [json.loads(line) for line in text.splitlines()]


def _rate(events: list[dict[str, Any]]) -> float | None:
    """Rows a second of the latest call, from its start to its latest news."""
    starts = [i for i, event in enumerate(events) if event["event"] == "started"]
    since = events[starts[-1] :] if starts else []
    done = [event["done"] for event in since if event["event"] == "answered"]
    if not done:
        return None
    seconds = (datetime.fromisoformat(since[-1]["time"]) - datetime.fromisoformat(since[0]["time"])).total_seconds()
    return done[-1] / seconds if seconds > 0 else None
