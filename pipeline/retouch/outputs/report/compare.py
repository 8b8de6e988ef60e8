"""Other runs on the same keys beside one run: their images by key, and which scores they raise. Knows no page."""

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
from retouch.outputs.report.tiles import Fetch, reader
from retouch.outputs.run_record import read_run
from retouch.redaction import redacted


@dataclass(frozen=True)
class Shown:
    """What is shown of another run."""

    name: str
    answers: Mapping[str, Mapping[str, Any]]  # results rows by key
    fetch: Fetch


@dataclass(frozen=True)
class Beside:
    """Another run."""

    name: str
    output: str
    table: pa.Table  # results, each key once

    def of_keys(self, keys: pa.Array) -> Shown:
        """Its answers to some keys."""
        rows = self.table.filter(pc.is_in(self.table["key"], keys)).to_pylist()
        return Shown(self.name, {row["key"]: row for row in rows}, reader(self.output, rows))


@dataclass(frozen=True)
class Compared:
    """One score of another run against this one's, over the keys that have it in both."""

    name: str  # of the run
    score: str
    rows: int
    mine: float  # means
    theirs: float
    better: float  # share of the rows in which the other run is better; 0.5 where half are


def beside(name: str, output: str, outputs: Sequence[str]) -> tuple[Beside, ...]:
    """Other runs, each under a name of its own: its job's, or its folder's where jobs have the same.

    Raises:
        OutputError: one is no run's output.
    """
    names = [str(read_run(other)["job"]["name"]) for other in outputs]
    if len({name, *names}) <= len(names):
        names = [other.rstrip("/").rpartition("/")[2] for other in outputs]
    if len({*names}) < len(names):
        names = list(outputs)
    pairs = zip(names, outputs, strict=True)
    return tuple(Beside(redacted(named), other, results.read(other)) for named, other in pairs)


def compared(
    table: pa.Table, others: Sequence[Beside], scores: Sequence[str], thresholds: Mapping[str, Any]
) -> list[Compared]:
    """Each score of each other run that is a number in both."""
    found = []
    for other in others:
        for score in scores:
            mine, theirs = _both(table, other.table, score)
            if mine.size:
                up = theirs > mine if lower_is_worse(score, thresholds) else theirs < mine
                better = float((up + 0.5 * (theirs == mine)).mean())
                means = float(mine.mean()), float(theirs.mean())
                found.append(Compared(other.name, score, int(mine.size), *means, better))
    return found


def _both(table: pa.Table, other: pa.Table, score: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The score of the keys that have it in both tables, in one order."""
    none = np.empty(0), np.empty(0)
    if score not in other.column_names or not _counts(table, score) or not _counts(other, score):
        return none
    places = pc.index_in(table["key"], value_set=other["key"])
    pair = pa.table({"mine": _floats(table[score]), "theirs": _floats(other[score]).take(places)})
    both = pair.filter(pc.and_(pc.is_finite(pair["mine"]), pc.is_finite(pair["theirs"])))
    return both["mine"].to_numpy(), both["theirs"].to_numpy()


def _counts(table: pa.Table, score: str) -> bool:
    kind = table.schema.field(score).type
    return is_number(kind) or pa.types.is_boolean(kind)


def _floats(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int8()).cast(pa.float64()) if pa.types.is_boolean(column.type) else column.cast(pa.float64())
