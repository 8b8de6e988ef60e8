"""Whether tonight's scores are spread as those of earlier nights. Knows scores as numbers, not what they measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retouch.execution.incremental import Night
from retouch.jobs.config import DriftSpec
from retouch.outputs import changes, results
from retouch.outputs.report.selection import is_number

Values = npt.NDArray[np.float64]
FRESH: Final = (changes.NEW, changes.CHANGED, changes.LEFT_OVER)  # rows that a night itself answers


@dataclass(frozen=True)
class Drift:
    """One score of the rows that were answered tonight, against those of earlier nights."""

    score: str
    rows: int
    mean: float
    earlier_rows: int
    earlier_mean: float
    distance: float  # Kolmogorov-Smirnov: the largest distance of the two distribution functions, 0..1
    p_value: float  # how likely chance makes one so large
    moved: bool

    def text(self) -> str:
        """``clip_score: 21.3 after 27.9, distance 0.61 (p 1e-05)``."""
        means = f"{self.mean:.4g} after {self.earlier_mean:.4g}"
        return f"{self.score}: {means}, distance {self.distance:.2f} (p {self.p_value:.1g})"


def measure(output: str, night: Night, scores: Sequence[str], spec: DriftSpec) -> list[Drift]:
    """Hold the scores of the rows that this night answered against those of the nights before it.

    Rows that were taken over count for the night that answered them.

    Args:
        output: of a run that is through.
        night: what it began with.
        scores: columns of the results; those that are neither numbers nor yes and no are passed over.
        spec: how many nights, and what counts as moved.

    Raises:
        StorageError: results cannot be read.
    """
    now = _answered_there(output, scores)
    tonight = _of_keys(now, night.changes.of(*FRESH))
    before = list(_before(output, now, night, scores))[: spec.nights]
    found = []
    for score in scores:
        mine = _values(tonight, score)
        theirs = np.concatenate([np.empty(0), *(_values(table, score) for table in before)])
        if mine.size and theirs.size:
            found.append(_compared(score, mine, theirs, spec))
    return found


def _before(output: str, now: pa.Table, night: Night, scores: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of each earlier night, the newest first: of this output, then of other outputs of the job."""
    for file in changes.history(output)[1:]:
        then = changes.read(file).of(*FRESH)
        yield _of_keys(now, then.filter(pc.invert(pc.is_in(then, night.changes.of(*FRESH)))))
    for run in night.runs:
        yield _answered_there(run.output, scores)


def _answered_there(output: str, scores: Sequence[str]) -> pa.Table:
    table = results.read(output, ["key", "carried_from", *scores])
    return table.filter(pc.is_null(table["carried_from"])) if "carried_from" in table.column_names else table


def _of_keys(table: pa.Table, keys: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table["key"], keys))


def _values(table: pa.Table, score: str) -> Values:
    if score not in table.column_names or not _counts(table.schema.field(score).type):
        return np.empty(0)
    values = np.array([value for value in table[score].to_pylist() if value is not None], np.float64)
    return values[np.isfinite(values)]


def _counts(kind: pa.DataType) -> bool:
    """Whether values of a type are numbers, or yes and no; a judge's words are not held against each other."""
    return is_number(kind) or pa.types.is_boolean(kind)


def _compared(score: str, mine: Values, theirs: Values, spec: DriftSpec) -> Drift:
    from scipy.stats import ks_2samp

    distance, p_value = (float(figure) for figure in ks_2samp(mine, theirs))
    moved = distance >= spec.distance and p_value <= spec.p_value
    return Drift(score, mine.size, float(mine.mean()), theirs.size, float(theirs.mean()), distance, p_value, moved)
