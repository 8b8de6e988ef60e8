"""Set operations on tables of (key, fingerprint), for millions of rows: no Python object per row.

A row set has string columns ``key`` (unique) and ``fingerprint``; other columns are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA: Final = pa.schema([pa.field("key", pa.string(), False), pa.field("fingerprint", pa.string(), False)])
CHUNK_ROWS: Final = 100_000  # rows held as Python objects at a time


def empty() -> pa.Table:
    """Return the empty row set."""
    return SCHEMA.empty_table()


def of(table: pa.Table) -> pa.Table:
    """Return a table's keys and fingerprints without its other columns."""
    return table.select(SCHEMA.names)


def has_key(table: pa.Table, others: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether the others have its key."""
    return pc.is_in(table["key"], value_set=others["key"])


def is_same(table: pa.Table, others: pa.Table) -> pa.ChunkedArray:
    """Return for each row whether the others have its key with the same fingerprint."""
    fingerprints = others["fingerprint"].take(pc.index_in(table["key"], value_set=others["key"]))
    return pc.fill_null(pc.equal(table["fingerprint"], fingerprints), False)


def without(table: pa.Table, others: pa.Table) -> pa.Table:
    """Return the rows whose key and fingerprint the others do not have."""
    return table.filter(pc.invert(is_same(table, others))) if others.num_rows else table


def with_keys(table: pa.Table, others: pa.Table) -> pa.Table:
    """Return the rows whose key the others have."""
    return table.filter(has_key(table, others))


def without_keys(table: pa.Table, others: pa.Table) -> pa.Table:
    """Return the rows whose key the others do not have."""
    return table.filter(pc.invert(has_key(table, others))) if others.num_rows else table


def digest(table: pa.Table) -> str:
    """Return 20 hex digits that identify the row set, equal to ``image_paths.rows_digest``."""
    lengths = pc.utf8_length(table["key"]).cast(pa.string())
    lines = pc.binary_join_element_wise(
        pc.binary_join_element_wise(lengths, table["key"], ":"), table["fingerprint"], "\0"
    ).cast(pa.large_string())
    return sha256_of_lines(lines)[:20]


def sha256_of_lines(lines: pa.ChunkedArray) -> str:
    """Return the sha256 of the sorted texts joined by newlines, without holding them all in memory."""
    ordered, digest, separator = lines.take(pc.sort_indices(lines)), hashlib.sha256(), ""
    for texts in chunks(ordered):
        digest.update((separator + "\n".join(texts)).encode())
        separator = "\n"
    return digest.hexdigest()


def chunks(column: pa.ChunkedArray | pa.Array) -> Iterator[list[Any]]:
    """Yield a column's values as lists of at most ``CHUNK_ROWS``."""
    for start in range(0, len(column), CHUNK_ROWS):
        yield column.slice(start, CHUNK_ROWS).to_pylist()
