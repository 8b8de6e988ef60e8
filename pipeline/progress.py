"""How far a run is, for people: a bar on a terminal, one plain line an interval elsewhere. Knows counts only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.schema import FAILURES

INTERVAL: Final = 10.0  # seconds between two plain lines
_SHOWN: Final = 120  # characters of an error


class Tally:
    """Counts answered rows and says so."""

    def __init__(self, name: str, total: int, answered: int, console: Console) -> None:
        self.name, self.total, self.answered = name, total, answered
        self.done = 0  # answered by this run
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.edit_seconds = 0.0
        self._console = console
        self._started = self._said = time.monotonic()
        self._bar: tuple[Progress, Any] | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the work began, the executor's start included."""
        return time.monotonic() - self._started

    @property
    def failed(self) -> int:
        """Rows of this run that are failures."""
        return sum(self.statuses[status] for status in FAILURES)

    def commonest(self) -> str:
        """The most frequent errors and how often they came, for a line."""
        return "; ".join(f"{number} x {error[:_SHOWN]}" for error, number in self.errors.most_common(3))

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Take in committed results rows."""
        for row in rows:
            self.done += 1
            self.statuses[row["status"]] += 1
            self.edit_seconds += row["edit_seconds"] or 0.0
            if row["error_type"]:
                self.errors[f"{row['error_type']}: {row['error_message']}"] += 1
        if self._bar is not None:
            self._bar[0].update(self._bar[1], completed=self.answered + self.done, failed=self.failed)
        elif time.monotonic() - self._said >= INTERVAL:
            self._said = time.monotonic()
            self._console.print(self.line(), soft_wrap=True, highlight=False)

    def line(self) -> str:
        """``quickstart: 12/32 rows, 1 failed, 3.20 rows/s, 0:06 left``."""
        rate = self.done / max(self.seconds, 1e-9)
        left = (self.total - self.answered - self.done) / rate if rate else float("inf")
        eta = f", {int(left // 60)}:{int(left % 60):02d} left" if left != float("inf") else ""
        done = self.answered + self.done
        return f"{self.name}: {done}/{self.total} rows, {self.failed} failed, {rate:.2f} rows/s{eta}"


@contextmanager
def tally(name: str, total: int, answered: int, console: Console) -> Iterator[Tally]:
    """A tally for the time of a run, with a bar where someone is watching."""
    counts = Tally(name, total, answered, console)
    if not console.is_terminal:
        yield counts
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        counts._bar = (bar, bar.add_task(name, total=total, completed=answered, failed=0))
        yield counts
