"""Selection of the rows that a gallery shows.

Random rows are chosen by hashes of keys, so that two runs over the same rows show the same ones.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from retouch.schema import FAILURES, RESULT_FIELDS

ALL_UP_TO: Final = 200  # a page of up to so many rows shows all
RANDOM: Final = 50
RANKED: Final = 50  # best, and worst, by the first score
RANKED_NEXT: Final = 15  # by each of the next scores
SCORES_RANKED: Final = 4
MAX_PER_CLASS: Final = 10  # failures shown per status and error type
# Parts of the names of scores where more is worse, for scores without a threshold.
DISTANCES: Final = ("distance", "lpips", "l1", "l2", "mse", "loss", "error", "fid")


@dataclass(frozen=True)
class Section:
    """A group of rows of the gallery; a row may be in several."""

    title: str
    note: str
    rows: Sequence[int]


def score_columns(schema: pa.Schema, caller: Sequence[str]) -> list[str]:
    """Return the score columns of a results table: those that are neither ours nor the caller's."""
    return [name for name in schema.names if name not in RESULT_FIELDS.names and name not in caller]


def choose_sections(table: pa.Table, scores: Sequence[str], thresholds: Mapping[str, Any]) -> list[Section]:
    """Return the sections of a gallery, in order.

    Args:
        table: results, one row per key.
        scores: its score columns; the first numeric ones rank the worst and best rows.
        thresholds: ``quality.thresholds`` of the job, which show in which direction a score is worse.
    """
    count = table.num_rows
    if count <= ALL_UP_TO:
        return [Section("All rows", f"{count} of {count}", range(count))] if count else []
    order = _by_hash(table["key"].to_pylist())
    chosen = [Section("Random rows", f"{RANDOM} of {count}, the same in every report", order[:RANDOM])]
    names = [name for name in scores if is_number(table.schema.field(name).type)][:SCORES_RANKED]
    for name in names:
        chosen += _ranked(
            table, name, order, lower_is_worse(name, thresholds), RANKED if name == names[0] else RANKED_NEXT
        )
    failed = _failures(table, order)
    if failed:
        chosen.append(Section("Failures", f"up to {MAX_PER_CLASS} per status and error", failed))
    return chosen


def _ranked(table: pa.Table, name: str, order: Sequence[int], low_is_worse: bool, most: int) -> list[Section]:
    """Return the worst and the best rows by a score; nothing if no row has it."""
    values = table[name].to_pylist()
    scored = sorted((i for i in order if values[i] is not None and math.isfinite(values[i])), key=lambda i: values[i])
    lowest, highest = scored[:most], scored[::-1][:most]
    ends = [("lowest", lowest), ("highest", highest)] if low_is_worse else [("highest", highest), ("lowest", lowest)]
    titles = (f"Worst by {name}", f"Best by {name}")
    return [
        Section(title, f"the {len(rows)} with the {end} {name}", rows)
        for title, (end, rows) in zip(titles, ends, strict=True)
        if rows
    ]


def lower_is_worse(name: str, thresholds: Mapping[str, Any]) -> bool:
    """Return whether less of a score is worse, by its threshold, else by its name."""
    bound = thresholds.get(name)
    if bound and (bound.get("min") is None) != (bound.get("max") is None):
        return bound.get("min") is not None
    return not any(word in name.lower() for word in DISTANCES)


def is_number(kind: pa.DataType) -> bool:
    """Return whether values of this type can be sorted and averaged."""
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _by_hash(keys: Sequence[str]) -> list[int]:
    """Return row numbers sorted by a hash of their keys."""
    digests = [hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest() for key in keys]
    return sorted(range(len(keys)), key=digests.__getitem__)


def _failures(table: pa.Table, order: Sequence[int]) -> list[int]:
    """Return up to ``MAX_PER_CLASS`` failed rows per status and error type, class by class."""
    statuses, kinds = table["status"].to_pylist(), table["error_type"].to_pylist()
    classes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in order:
        group = classes[statuses[i], kinds[i] or ""]
        if statuses[i] in FAILURES and len(group) < MAX_PER_CLASS:
            group.append(i)
    return [i for key in sorted(classes) for i in classes[key]]
