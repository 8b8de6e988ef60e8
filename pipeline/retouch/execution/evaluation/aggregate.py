"""Counts and means over scored images, with whatever was not counted by name. Knows neither metrics nor pixels."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retouch import storage
from retouch.execution.evaluation.image_sets import ImageSet

NAMED: Final = 100  # keys that a JSON file names; rows.parquet names all
THERE: Final = "there"  # status of an image that can be scored; the others are "missing"
MISSING: Final = "missing"


def named(reasons: Mapping[str, str]) -> dict[str, Any]:
    """How many keys have a reason why they were not counted, and the first of them by name."""
    return {"count": len(reasons), "keys": dict(list(reasons.items())[:NAMED])}


def of_images(images: ImageSet) -> dict[str, Any]:
    """A set's counts: images, rows that have none, by the first word of the reason (a run's status)."""
    kinds = Counter(reason.partition(":")[0] for reason in images.missing.values())
    return {"images": len(images.rows), "missing": {**named(images.missing), "by": dict(kinds)}}


def rows_table(images: ImageSet, parts: Sequence[str], columns: Mapping[str, pa.DataType]) -> pa.Table:
    """One row a key: ``status`` there or missing, ``error``, and the row metrics' columns.

    Args:
        images: the set.
        parts: addresses of the shards' tables, none where nothing was scored by row.
        columns: the row metrics', with their types.
    """
    schema = pa.schema([("key", pa.string()), ("status", pa.string()), ("error", pa.string()), *columns.items()])
    scored = [row for part in parts for row in pq.read_table(io.BytesIO(storage.read_bytes(part))).to_pylist()]
    scored = scored if parts else [{"key": row.key} for row in images.rows]
    there = [{"status": THERE, **row} for row in scored]
    missing = [{"key": key, "status": MISSING, "error": reason} for key, reason in images.missing.items()]
    return pa.Table.from_pylist(sorted([*there, *missing], key=lambda row: str(row["key"])), schema=schema)


def of_scores(table: pa.Table, columns: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Of each column of a metric: mean and how many images have a number; of texts and the like the counts."""
    found: dict[str, dict[str, Any]] = {}
    for name in columns:
        values = [value for value in table[name].to_pylist() if value is not None]
        if values and not isinstance(values[0], int | float):
            found[name] = {"images": len(values), "values": dict(Counter(map(str, values)))}
        else:
            found[name] = {"images": len(values), "mean": float(np.mean(values)) if values else None}
    return found


def failures(table: pa.Table) -> dict[str, str]:
    """Key to reason of images that are there and could not be scored."""
    rows = table.select(["key", "status", "error"]).to_pylist()
    return {row["key"]: row["error"] for row in rows if row["status"] == THERE and row["error"]}
