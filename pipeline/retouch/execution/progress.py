"""How far a run is, for whoever started it: a bar, plain lines, JSON lines, or nothing. Knows counts only.

A bar is for a terminal; elsewhere, a line an interval. Only a bar has colour, and none where ``NO_COLOR`` is set.
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
    """A mode by its name. Raises ConfigError where there is none."""
    for mode in get_args(Mode):
        if mode == text:
            found: Mode = mode
            return found
    raise ConfigError(f"no way {text!r} to show progress; there are: {', '.join(get_args(Mode))}")


class Voice:
    """Speaks to whoever started a run.

    Args:
        console: where to.
        mode: ``auto`` is a bar on a terminal, else ``plain``; ``json`` is an object a line; ``quiet`` says nothing.
    """

    def __init__(self, console: Console, mode: Mode = "auto") -> None:
        self.console, self.mode = console, mode

    @property
    def has_bar(self) -> bool:
        """Whether someone watches a bar."""
        return self.mode == "auto" and self.console.is_terminal

    def note(self, text: str) -> None:
        """One line that is no progress: what is waited for, what was found."""
        self._say(text, {"event": "note", "text": text})

    def progress(self, counts: Tally) -> None:
        """How far the run is."""
        self._say(counts.line(), {"event": "progress", **counts.record()})

    def _say(self, text: str, record: dict[str, Any]) -> None:
        if self.mode != "quiet":
            said = json.dumps(record) if self.mode == "json" else text
            self.console.print(said, soft_wrap=True, highlight=False, markup=False, emoji=False)


class Tally:
    """Counts answered rows and says so."""

    def __init__(
        self, name: str, total: int, answered: int, voice: Voice, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name, self.total, self.answered = name, total, answered
        self.done = 0  # answered by this run
        self.statuses: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.edit_seconds = 0.0
        self._voice, self._clock = voice, clock
        self._started = self._said = clock()
        self._first: tuple[float, int] | None = None  # when the first answers came, and how many
        self._editors: tuple[float, int] | None = None  # since when how many are there
        self._bar: tuple[Progress, TaskID] | None = None

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the work began, the executor's start included."""
        return self._clock() - self._started

    @property
    def failed(self) -> int:
        """Rows of this run that are failures."""
        return sum(self.statuses[status] for status in FAILURES)

    @property
    def rate(self) -> float:
        """Rows a second since the first answers; until there are more, since the work began."""
        if self._first is not None and self.done > self._first[1]:
            return (self.done - self._first[1]) / max(self._clock() - self._first[0], 1e-9)
        return self.done / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """For the rows that are left at this rate; None before the first answers."""
        return (self.total - self.answered - self.done) / self.rate if self.done else None

    @property
    def busy(self) -> float | None:
        """Share of the editors' time that they spent in passes, in 0..1; None while none has answered."""
        if self._editors is None or not self.done:
            return None
        since, number = self._editors
        share = ratio(self.edit_seconds, number * (self._clock() - since))
        return None if share is None else min(share, 1.0)

    def commonest(self) -> str:
        """The most frequent errors and how often they came, for a line."""
        return "; ".join(f"{number} x {error[:_SHOWN]}" for error, number in self.errors.most_common(3))

    def met(self, editors: int) -> None:
        """So many editors are at work from now on."""
        self._editors = self._clock(), editors

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Take in committed results rows."""
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
            bar.update(task, completed=self.answered + self.done, said=self._facts())
        elif now - self._said >= INTERVAL:
            self._said = now
            self._voice.progress(self)

    def line(self) -> str:
        """``quickstart: 12/32 rows, 3 success, 1 failed_to_load, 3.20 images/s, 0:06 left, editors 83 % busy``."""
        return f"{self.name}: {self.answered + self.done}/{self.total} rows, {self._facts()}"

    def record(self) -> dict[str, Any]:
        """The same for programs."""
        left, busy = self.seconds_left, self.busy
        return {
            "job": self.name,
            "rows": self.total,
            "answered": self.answered + self.done,
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
def tally(name: str, total: int, answered: int, voice: Voice) -> Iterator[Tally]:
    """A tally for the time of a run, with a bar where someone is watching."""
    counts = Tally(name, total, answered, voice)
    if not voice.has_bar:
        if voice.mode == "json":
            voice.progress(counts)
        yield counts
        if voice.mode == "json":
            voice.progress(counts)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[said]}"))
    with Progress(*columns, console=voice.console) as bar:
        counts._bar = (bar, bar.add_task(name, total=total, completed=answered, said=""))
        yield counts


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
