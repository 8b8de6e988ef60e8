"""Selection of the rows and columns to export, with the number of rows left out per reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from retouch.errors import ConfigError
from retouch.manifests import row_sets
from retouch.outputs.image_paths import MEMBER, file_of
from retouch.schema import FAILED_QUALITY, RESULT_FIELDS, SUCCESS
from retouch.validation import nearest

WITH_IMAGE: Final = (SUCCESS, FAILED_QUALITY)  # statuses of rows that have an image
TEXTS: Final = ("prompt", "negative_prompt", "source_prompt")  # columns of the manifest that the results do not have
NOT_DONE: Final = "not answered yet"
NOT_WHERE: Final = "not --where"
# Those of our own columns that are useful outside of the run; metrics and the caller's columns all are.
EXPORTED: Final = ("key", "status", "seed", "candidate", "width", "height", "sha256", "background_changed_px")
_ROW: Final = "__row"


@dataclass(frozen=True)
class Choice:
    """The chosen rows."""

    rows: pa.Table  # results with ``TEXTS``, in the order of the export
    columns: tuple[str, ...]  # to export; ``key`` first
    left_out: Mapping[str, int]  # reason to rows


def choose_rows(
    table: pa.Table,
    requests: pa.Table,
    texts: pa.Table,
    *,
    statuses: Collection[str] = (SUCCESS,),
    where: str | None = None,
    columns: Sequence[str] | None = None,
) -> Choice:
    """Choose rows and columns from the results of a run.

    Args:
        table: the results.
        requests: with the ``key`` of every requested row.
        texts: with ``key``, and those of ``TEXTS`` that the manifest has.
        statuses: of the rows to export, among ``WITH_IMAGE``.
        where: a condition in DuckDB's SQL over the results' columns and ``TEXTS``.
        columns: to export; if None ``EXPORTED``, ``TEXTS``, metrics and the caller's.

    Raises:
        ConfigError: a status has no images, the condition is invalid, a column is unknown, or no row is chosen.
    """
    if wrong := [status for status in statuses if status not in WITH_IMAGE]:
        raise ConfigError(f"--status {wrong[0]!r}: rows of this status have no image; give {' or '.join(WITH_IMAGE)}")
    table = _with_texts(table, texts)
    names = _columns(table, columns)
    left_out = Counter({NOT_DONE: row_sets.without_keys(requests, table).num_rows})
    left_out.update(status for status in table["status"].to_pylist() if status not in statuses)
    table = table.filter(pc.is_in(table["status"], pa.array(sorted(statuses), pa.string())))
    if where is not None:
        found = table.take(pa.array(_where(table, where), pa.int64()))
        left_out[NOT_WHERE] = table.num_rows - found.num_rows
        table = found
    counts = {reason: rows for reason, rows in sorted(left_out.items()) if rows}
    if not table.num_rows:
        reasons = ", ".join(f"{rows} {reason}" for reason, rows in counts.items()) or "the run has no rows"
        raise ConfigError(f"no row to export: {reasons}")
    return Choice(_ordered(table), names, counts)


def _with_texts(table: pa.Table, texts: pa.Table) -> pa.Table:
    places = pc.index_in(table["key"], value_set=texts["key"])
    for name in TEXTS:
        if name in texts.column_names and name not in table.column_names:
            table = table.append_column(name, texts[name].take(places))
    return table


def _columns(table: pa.Table, wanted: Sequence[str] | None) -> tuple[str, ...]:
    known = table.column_names
    if wanted is None:
        ours = set(RESULT_FIELDS.names) | set(TEXTS)
        chosen = [name for name in (*EXPORTED, *TEXTS) if name in known]
        return (*chosen, *(name for name in known if name not in ours))
    if unknown := [name for name in wanted if name not in known]:
        hint = nearest(unknown[0], known) or f"; known: {', '.join(known)}"
        raise ConfigError(f"--columns: the results have no column {unknown[0]!r}{hint}")
    return tuple(dict.fromkeys(["key", *wanted]))


def _where(table: pa.Table, condition: str) -> list[int]:
    """Return the numbers of the rows that meet the condition, in order."""
    import duckdb

    numbered = table.append_column(_ROW, pa.array(range(table.num_rows), pa.int64()))
    # A condition must not read files or this process's variables.
    settings: dict[str, Any] = {"enable_external_access": "false", "python_enable_replacements": "false"}
    try:
        with duckdb.connect(":memory:", config=settings) as database:
            found = database.from_arrow(numbered).filter(condition).project(_ROW).fetchall()
    except duckdb.Error as error:
        raise ConfigError(f"--where {condition!r}: {' '.join(str(error).split())}") from None
    return sorted(row for (row,) in found)


def _ordered(table: pa.Table) -> pa.Table:
    """Return the rows sorted by key, but rows of one shard together, so that it is read once."""
    shards = [file_of(path) if MEMBER in path else "" for path in table["output"].to_pylist()]
    order = sorted(range(table.num_rows), key=lambda row: shards[row])  # stable: by key within
    return table.take(pa.array(order, pa.int64())).combine_chunks()
