"""How many rows passed each stage: read, loaded, edited, passed the gate, kept.

A row is lost at one station at most, which its result row names, so the counts add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from retouch.schema import FAILED_QUALITY, FAILED_TO_LOAD, SUCCESS

READ, LOADED, EDITED, PASSED, KEPT = STATIONS = ("read", "loaded", "edited", "passed the gate", "kept")
COLUMNS: Final = ("status", "error_stage", "attempts")
_AFTER_THE_GATE: Final = frozenset({"encode", "write"})  # stages in which an edit that passed can still be lost


@dataclass(frozen=True)
class Station:
    """One step of the funnel."""

    name: str
    rows: int  # that passed it
    lost: Mapping[str, int] = field(default_factory=dict)  # status to rows that were lost here


@dataclass(frozen=True)
class Funnel:
    """All stations in order, and the number of candidates tried."""

    stations: tuple[Station, ...]
    tries: int


def make_funnel(table: pa.Table) -> Funnel:
    """Count the rows that passed each station.

    Args:
        table: results, one row per key, with ``COLUMNS``.
    """
    lost: dict[str, Counter[str]] = {name: Counter() for name in STATIONS}
    counts = table.group_by(["status", "error_stage"]).aggregate([("status", "count")]).to_pylist()
    for kind in counts:
        if kind["status"] != SUCCESS:
            lost[_lost_at(kind["status"], kind["error_stage"])][kind["status"]] += kind["status_count"]
    stations, left = [], table.num_rows
    for name in STATIONS:
        left -= lost[name].total()
        stations.append(Station(name, left, dict(sorted(lost[name].items()))))
    return Funnel(tuple(stations), pc.sum(table["attempts"]).as_py() or 0)


def _lost_at(status: str, stage: str | None) -> str:
    """Return the station that a row did not pass; one flagged by a safety checker has no edit that may be shown."""
    if status == FAILED_TO_LOAD or stage == "decode":  # failed_to_edit in decode: a worker died decoding the row
        return LOADED
    if status == FAILED_QUALITY:
        return PASSED
    return KEPT if stage in _AFTER_THE_GATE else EDITED
