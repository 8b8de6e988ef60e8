"""Whether the scores of the rows that a run edited are distributed like those of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retouch.execution.incremental import Baseline
from retouch.jobs.config import DriftSpec
from retouch.outputs import changes, results
from retouch.outputs.report.selection import is_number

Values = npt.NDArray[np.float64]
FRESH: Final = (changes.NEW, changes.CHANGED, changes.LEFT_OVER)  # changes for which a run edits the row itself


@dataclass(frozen=True)
class Drift:
    """One score of the rows that this run edited, compared with earlier runs."""

    score: str
    rows: int
    mean: float
    earlier_rows: int
    earlier_mean: float
    distance: float  # Kolmogorov-Smirnov: the largest difference of the two distribution functions, 0..1
    p_value: float  # probability of such a distance by chance
    moved: bool

    def text(self) -> str:
        """Return ``clip_score: 21.3 after 27.9, distance 0.61 (p 1e-05)``."""
        means = f"{self.mean:.4g} after {self.earlier_mean:.4g}"
        return f"{self.score}: {means}, distance {self.distance:.2f} (p {self.p_value:.1g})"


def measure(output: str, baseline: Baseline, scores: Sequence[str], spec: DriftSpec) -> list[Drift]:
    """Compare the scores of the rows that this run edited with those of the runs before it.

    A carried row counts for the run that edited it.

    Args:
        output: of a run that has edited all its rows.
        baseline: of the run.
        scores: columns of the results; those that are neither numeric nor boolean are skipped.
        spec: how many runs to compare with, and what counts as moved.

    Raises:
        StorageError: results cannot be read.
    """
    own = _edited_rows(output, scores)
    current = _with_keys(own, baseline.changes.of(*FRESH))
    earlier = list(_earlier(output, own, baseline, scores))[: spec.nights]
    found = []
    for score in scores:
        now = _values(current, score)
        before = np.concatenate([np.empty(0), *(_values(table, score) for table in earlier)])
        if now.size and before.size:
            found.append(_compare(score, now, before, spec))
    return found


def _earlier(output: str, own: pa.Table, baseline: Baseline, scores: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of each earlier run, newest first: calls on this output, then other outputs of the job."""
    for file in changes.history(output)[1:]:
        keys = changes.read(file).of(*FRESH)
        yield _with_keys(own, keys.filter(pc.invert(pc.is_in(keys, baseline.changes.of(*FRESH)))))
    for run in baseline.runs:
        yield _edited_rows(run.output, scores)


def _edited_rows(output: str, scores: Sequence[str]) -> pa.Table:
    """Return the results of an output without the carried rows."""
    table = results.read(output, ["key", "carried_from", *scores])
    return table.filter(pc.is_null(table["carried_from"])) if "carried_from" in table.column_names else table


def _with_keys(table: pa.Table, keys: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table["key"], keys))


def _values(table: pa.Table, score: str) -> Values:
    if score not in table.column_names or not _is_comparable(table.schema.field(score).type):
        return np.empty(0)
    values = np.array([value for value in table[score].to_pylist() if value is not None], np.float64)
    return values[np.isfinite(values)]


def _is_comparable(kind: pa.DataType) -> bool:
    """Return whether a column's distribution can be compared: numbers and booleans, not a judge's words."""
    return is_number(kind) or pa.types.is_boolean(kind)


def _compare(score: str, now: Values, before: Values, spec: DriftSpec) -> Drift:
    from scipy.stats import ks_2samp

    distance, p_value = (float(figure) for figure in ks_2samp(now, before))
    moved = distance >= spec.distance and p_value <= spec.p_value
    return Drift(score, now.size, float(now.mean()), before.size, float(before.mean()), distance, p_value, moved)
