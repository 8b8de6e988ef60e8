"""Comparison of a run with other runs on the same keys: their images by key, and which scores they raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retouch.outputs import results
from retouch.outputs.report.selection import is_number, lower_is_worse
from retouch.outputs.report.tiles import ImageReader, image_reader
from retouch.outputs.run_record import read_run
from retouch.redaction import redacted


@dataclass(frozen=True)
class OtherRows:
    """Some rows of another run, with a reader of their images."""

    run: str
    rows: Mapping[str, Mapping[str, Any]]  # results rows by key
    read_image: ImageReader


@dataclass(frozen=True)
class OtherRun:
    """A run that the gallery's own run is compared with."""

    name: str
    output: str
    table: pa.Table  # results, one row per key

    def of_keys(self, keys: pa.Array) -> OtherRows:
        """Return its rows with these keys."""
        rows = self.table.filter(pc.is_in(self.table["key"], keys)).to_pylist()
        return OtherRows(self.name, {row["key"]: row for row in rows}, image_reader(self.output, rows))


@dataclass(frozen=True)
class ScoreComparison:
    """One score of this run and another, over the keys that have it in both."""

    name: str  # of the other run
    score: str
    rows: int
    mine: float  # means
    theirs: float
    better: float  # fraction of the rows in which the other run is better; 0.5 means equal


def read_other_runs(name: str, outputs: Sequence[str]) -> tuple[OtherRun, ...]:
    """Read runs to compare with, named by their jobs, or by their folders if job names repeat.

    Args:
        name: of the gallery's own run.
        outputs: folders of the other runs.

    Raises:
        OutputError: one is not a run's output.
    """
    names = [str(read_run(other)["job"]["name"]) for other in outputs]
    if len({name, *names}) <= len(names):
        names = [other.rstrip("/").rpartition("/")[2] for other in outputs]
    if len({*names}) < len(names):
        names = list(outputs)
    named = zip(names, outputs, strict=True)
    return tuple(OtherRun(redacted(label), other, results.read(other)) for label, other in named)


def compare_scores(
    table: pa.Table, others: Sequence[OtherRun], scores: Sequence[str], thresholds: Mapping[str, Any]
) -> list[ScoreComparison]:
    """Return a comparison for each score that is a number in both runs."""
    found = []
    for other in others:
        for score in scores:
            mine, theirs = _paired(table, other.table, score)
            if mine.size:
                up = theirs > mine if lower_is_worse(score, thresholds) else theirs < mine
                better = float((up + 0.5 * (theirs == mine)).mean())
                means = float(mine.mean()), float(theirs.mean())
                found.append(ScoreComparison(other.name, score, int(mine.size), *means, better))
    return found


def _paired(table: pa.Table, other: pa.Table, score: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the score in both tables, for the keys that have it in both, in the same order."""
    none = np.empty(0), np.empty(0)
    if score not in other.column_names or not _is_numeric(table, score) or not _is_numeric(other, score):
        return none
    places = pc.index_in(table["key"], value_set=other["key"])
    pair = pa.table({"mine": _floats(table[score]), "theirs": _floats(other[score]).take(places)})
    both = pair.filter(pc.and_(pc.is_finite(pair["mine"]), pc.is_finite(pair["theirs"])))
    return both["mine"].to_numpy(), both["theirs"].to_numpy()


def _is_numeric(table: pa.Table, score: str) -> bool:
    kind = table.schema.field(score).type
    return is_number(kind) or pa.types.is_boolean(kind)


def _floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int8()).cast(pa.float64()) if pa.types.is_boolean(column.type) else column.cast(pa.float64())
