"""Counts and means over scored images, and the images that were not counted."""

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

MAX_NAMED: Final = 100  # keys that metrics.json names; rows.parquet names all
PRESENT: Final = "there"  # status of an image that can be scored; the others are "missing"
MISSING: Final = "missing"


def summarize_reasons(reasons: Mapping[str, str]) -> dict[str, Any]:
    """Return how many keys were not counted, and the first of them with their reasons."""
    return {"count": len(reasons), "keys": dict(list(reasons.items())[:MAX_NAMED])}


def count_images(images: ImageSet) -> dict[str, Any]:
    """Return how many images a set has and how many are missing, by the start of the reason (a run's status)."""
    kinds = Counter(reason.partition(":")[0] for reason in images.missing.values())
    return {"images": len(images.rows), "missing": {**summarize_reasons(images.missing), "by": dict(kinds)}}


def rows_table(images: ImageSet, parts: Sequence[str], columns: Mapping[str, pa.DataType]) -> pa.Table:
    """Return one row per key: ``status`` (there or missing), ``error``, and the columns of the row metrics.

    Args:
        images: the set.
        parts: addresses of the shards' tables; empty if there are no row metrics.
        columns: of the row metrics, name to Arrow type.
    """
    schema = pa.schema([("key", pa.string()), ("status", pa.string()), ("error", pa.string()), *columns.items()])
    scored = [row for part in parts for row in pq.read_table(io.BytesIO(storage.read_bytes(part))).to_pylist()]
    scored = scored if parts else [{"key": row.key} for row in images.rows]
    present = [{"status": PRESENT, **row} for row in scored]
    missing = [{"key": key, "status": MISSING, "error": reason} for key, reason in images.missing.items()]
    return pa.Table.from_pylist(sorted([*present, *missing], key=lambda row: str(row["key"])), schema=schema)


def summarize_scores(table: pa.Table, columns: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Summarize each column of a metric: how many images have a value, and the mean, or the counts of texts."""
    found: dict[str, dict[str, Any]] = {}
    for name in columns:
        values = [value for value in table[name].to_pylist() if value is not None]
        if values and not isinstance(values[0], int | float):
            found[name] = {"images": len(values), "values": dict(Counter(map(str, values)))}
        else:
            found[name] = {"images": len(values), "mean": float(np.mean(values)) if values else None}
    return found


def scoring_errors(table: pa.Table) -> dict[str, str]:
    """Return key to error of images that exist and could not be scored."""
    rows = table.select(["key", "status", "error"]).to_pylist()
    return {row["key"]: row["error"] for row in rows if row["status"] == PRESENT and row["error"]}
