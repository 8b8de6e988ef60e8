"""Tables of (key, fingerprint), by the million: membership, change and digest without an object of Python's a row.

A table here has columns ``key`` and ``fingerprint`` (string), each key once; other columns come along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA: Final = pa.schema([pa.field("key", pa.string(), False), pa.field("fingerprint", pa.string(), False)])
AT_ONCE: Final = 100_000  # rows whose texts are objects of Python's at the same time


def none() -> pa.Table:
    """No pair."""
    return SCHEMA.empty_table()


def of(table: pa.Table) -> pa.Table:
    """The pairs alone."""
    return table.select(SCHEMA.names)


def has_key(table: pa.Table, others: pa.Table) -> pa.ChunkedArray:
    """For each row whether its key is among the others'."""
    return pc.is_in(table["key"], value_set=others["key"])


def is_same(table: pa.Table, others: pa.Table) -> pa.ChunkedArray:
    """For each row whether the others have its key with its fingerprint."""
    there = others["fingerprint"].take(pc.index_in(table["key"], value_set=others["key"]))
    return pc.fill_null(pc.equal(table["fingerprint"], there), False)


def without(table: pa.Table, others: pa.Table) -> pa.Table:
    """The rows whose pair the others do not have."""
    return table.filter(pc.invert(is_same(table, others))) if others.num_rows else table


def with_keys(table: pa.Table, others: pa.Table) -> pa.Table:
    """The rows whose key the others have."""
    return table.filter(has_key(table, others))


def without_keys(table: pa.Table, others: pa.Table) -> pa.Table:
    """The rows whose key the others do not have."""
    return table.filter(pc.invert(has_key(table, others))) if others.num_rows else table


def digest(table: pa.Table) -> str:
    """20 hex digits that name the set of pairs: as ``addresses.rows_digest``."""
    lengths = pc.utf8_length(table["key"]).cast(pa.string())
    lines = pc.binary_join_element_wise(
        pc.binary_join_element_wise(lengths, table["key"], ":"), table["fingerprint"], "\0"
    ).cast(pa.large_string())
    return sha256_of_lines(lines)[:20]


def sha256_of_lines(lines: pa.ChunkedArray) -> str:
    """sha256 of the texts, sorted, with a line's end between two of them; the whole text is never in memory."""
    ordered, digest, between = lines.take(pc.sort_indices(lines)), hashlib.sha256(), ""
    for texts in pieces(ordered):
        digest.update((between + "\n".join(texts)).encode())
        between = "\n"
    return digest.hexdigest()


def pieces(column: pa.ChunkedArray | pa.Array) -> Iterator[list[Any]]:
    """A column's values as lists of at most ``AT_ONCE``."""
    for start in range(0, len(column), AT_ONCE):
        yield column.slice(start, AT_ONCE).to_pylist()
