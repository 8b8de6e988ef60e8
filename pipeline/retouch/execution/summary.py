"""The summary of a finished run: counts, cost, time, and its display in a notebook."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from markupsafe import Markup

from retouch.execution.drift import Drift
from retouch.outputs.report.funnel import Funnel
from retouch.redaction import redacted_all

_PAGE: Final = Markup("<table><caption>{caption}</caption>{rows}</table>")
_ROW: Final = Markup('<tr><th scope="row" style="text-align:left">{name}</th><td>{value}</td></tr>')


@dataclass(frozen=True)
class Summary:
    """Result of a run, over all rows of its output."""

    name: str
    output: str
    rows: int
    statuses: dict[str, int]
    answered_now: int  # rows that this call finished
    seconds: float  # of this call, including the start of Ray and the loading of models
    edit_seconds: float  # in the engine, summed over rows
    report: str
    failure_rate: float
    max_failure_rate: float
    carried: int  # rows that this call carried over from earlier runs
    changes: dict[str, int]  # rows by how they differ from the run before
    drift: tuple[Drift, ...]  # of scores since earlier runs; empty if there are none
    fail_on_drift: bool
    cost: float | None  # of all runs of the output; None if a device's price is unknown
    currency: str
    funnel: Funnel  # how many rows passed each stage
    device_seconds: dict[str, float]  # of this call: GPU-seconds, or core-seconds, by name of the device
    timing: dict[str, float]  # of this call, as ``Stopwatch.parts`` has it

    @property
    def images_per_second(self) -> float:
        """Finished rows per second of this call."""
        return self.answered_now / self.seconds if self.seconds else 0.0

    @property
    def exit_code(self) -> int:
        """1 if more rows failed than the job allows, or if scores drifted and the job asks to fail then; else 0."""
        over = self.failure_rate > self.max_failure_rate
        return int(over or (self.fail_on_drift and bool(self.moved)))

    def record(self) -> dict[str, Any]:
        """Return plain data for ``summary.json``, credentials masked."""
        return redacted_all({**asdict(self), "images_per_second": self.images_per_second, "exit_code": self.exit_code})

    @property
    def moved(self) -> tuple[Drift, ...]:
        """Scores that drifted."""
        return tuple(score for score in self.drift if score.moved)

    def _repr_html_(self) -> str:
        """Return a table for notebooks: rows by status, speed, cost, and where output and gallery are."""
        shown = {status: str(rows) for status, rows in self.statuses.items() if rows}
        if self.carried:
            shown["carried over"] = str(self.carried)
        shown["finished now"] = f"{self.answered_now} in {self.seconds:.1f} s, {self.images_per_second:.2f} rows/s"
        if self.cost is not None:
            shown["cost"] = f"{self.cost:.2f} {self.currency}"
        if self.moved:
            shown["drift"] = "; ".join(score.text() for score in self.moved)
        shown |= {"output": self.output, "gallery": self.report}
        rows = Markup("").join(_ROW.format(name=name, value=value) for name, value in redacted_all(shown).items())
        return str(_PAGE.format(caption=f"{self.name}: {self.rows} rows", rows=rows))
