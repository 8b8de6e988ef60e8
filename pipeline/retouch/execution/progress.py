"""A run's progress on the terminal: a bar, plain lines, JSON lines, or nothing.

The bar is for a terminal; elsewhere there is one line per interval. The bar has colour, unless ``NO_COLOR``
is set.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from retouch.errors import ConfigError
from retouch.schema import FAILURES, STATUSES
from retouch.telemetry import ratio

Mode = Literal["auto", "plain", "json", "quiet"]
INTERVAL: Final = 10.0  # seconds between two lines
_SHOWN: Final = 120  # characters of an error


def mode_of(text: str) -> Mode:
    """Return the mode of this name. Raises ConfigError for an unknown one."""
    for mode in get_args(Mode):
        if mode == text:
            found: Mode = mode
            return found
    raise ConfigError(f"unknown progress mode {text!r}; choose one of: {', '.join(get_args(Mode))}")


class Reporter:
    """Prints messages and progress of a run.

    Args:
        console: where to print.
        mode: ``auto`` is a bar on a terminal, else ``plain``; ``json`` prints an object per line; ``quiet`` nothing.
    """

    def __init__(self, console: Console, mode: Mode = "auto") -> None:
        self.console, self.mode = console, mode

    @property
    def has_bar(self) -> bool:
        """Whether progress is shown as a bar."""
        return self.mode == "auto" and self.console.is_terminal

    def message(self, text: str) -> None:
        """Print one line that is not progress, such as what the run waits for."""
        self._print(text, {"event": "note", "text": text})

    def progress(self, tracker: ProgressTracker) -> None:
        """Print the progress."""
        self._print(tracker.line(), {"event": "progress", **tracker.record()})

    def _print(self, text: str, record: dict[str, Any]) -> None:
        if self.mode != "quiet":
            line = json.dumps(record) if self.mode == "json" else text
            self.console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)


class ProgressTracker:
    """Counts the rows of a run as they are committed, and prints the progress.

    Args:
        name: of the job.
        total: rows of the job.
        done_before: rows that have a result already.
        reporter: prints the progress.
        clock: in seconds.
    """

    def __init__(
        self, name: str, total: int, done_before: int, reporter: Reporter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.total, self.done_before = name, total, done_before
        self.done = 0  # rows of this run
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.edit_seconds = 0.0
        self._reporter, self._clock = reporter, clock
        self._started = self._printed = clock()
        self._first: tuple[float, int] | None = None  # when the first rows were committed, and how many
        self._actors: tuple[float, int] | None = None  # since when, and how many
        self._bar: tuple[Progress, TaskID] | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the run began, including the executor's start."""
        return self._clock() - self._started

    @property
    def failed(self) -> int:
        """Rows of this run that failed."""
        return sum(self.statuses[status] for status in FAILURES)

    @property
    def rate(self) -> float:
        """Rows per second since the first rows were committed; until there are more, since the run began."""
        if self._first is not None and self.done > self._first[1]:
            return (self.done - self._first[1]) / max(self._clock() - self._first[0], 1e-9)
        return self.done / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Seconds for the rows that are left at this rate; None before the first row is committed."""
        return (self.total - self.done_before - self.done) / self.rate if self.done else None

    @property
    def busy(self) -> float | None:
        """Fraction of the actors' time spent in forward passes, in 0..1; None before the first row is committed."""
        if self._actors is None or not self.done:
            return None
        since, number = self._actors
        share = ratio(self.edit_seconds, number * (self._clock() - since))
        return None if share is None else min(share, 1.0)

    def most_common_errors(self) -> str:
        """Return the three most common errors and their counts, in one line."""
        return "; ".join(f"{number} x {error[:_SHOWN]}" for error, number in self.errors.most_common(3))

    def on_cluster_ready(self, actors: int) -> None:
        """Count the actors' time from now on."""
        self._actors = self._clock(), actors

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Count committed result rows."""
        for row in rows:
            self.done += 1
            self.statuses[row["status"]] += 1
            self.edit_seconds += row["edit_seconds"] or 0.0
            if row["error_type"]:
                self.errors[f"{row['error_type']}: {row['error_message']}"] += 1
        now = self._clock()
        self._first = self._first or (now, self.done)
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=self.done_before + self.done, facts=self._facts())
        elif now - self._printed >= INTERVAL:
            self._printed = now
            self._reporter.progress(self)

    def line(self) -> str:
        """``quickstart: 12/32 rows, 3 success, 1 failed_to_load, 3.20 images/s, 0:06 left, editors 83 % busy``."""
        return f"{self.name}: {self.done_before + self.done}/{self.total} rows, {self._facts()}"

    def record(self) -> dict[str, Any]:
        """Return the same as ``line``, as the object of the JSON mode."""
        left, busy = self.seconds_left, self.busy
        return {
            "job": self.name,
            "rows": self.total,
            "answered": self.done_before + self.done,
            "answered_now": self.done,
            "statuses": {status: self.statuses[status] for status in STATUSES},
            "images_per_second": round(self.rate, 4),
            "seconds_left": None if left is None else round(left, 1),
            "busy": None if busy is None else round(busy, 3),
        }

    def _facts(self) -> str:
        left, busy = self.seconds_left, self.busy
        counts = [f"{self.statuses[status]} {status}" for status in STATUSES if self.statuses[status]]
        parts = [*counts, f"{self.rate:.2f} images/s"]
        parts += [] if left is None else [f"{_clock_time(left)} left"]
        return ", ".join(parts if busy is None else [*parts, f"editors {busy:.0%} busy"])


@contextmanager
def tracking(name: str, total: int, done_before: int, reporter: Reporter) -> Iterator[ProgressTracker]:
    """Track the progress of a run, with a bar if there is a terminal."""
    tracker = ProgressTracker(name, total, done_before, reporter)
    if not reporter.has_bar:
        if reporter.mode == "json":
            reporter.progress(tracker)
        yield tracker
        if reporter.mode == "json":
            reporter.progress(tracker)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=reporter.console) as bar:
        tracker._bar = (bar, bar.add_task(name, total=total, completed=done_before, facts=""))
        yield tracker


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
