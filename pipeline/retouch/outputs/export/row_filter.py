"""Which rows of a run leave it, with which columns, and why the others stay. Knows no image."""

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

WITH_IMAGE: Final = (SUCCESS, FAILED_QUALITY)  # statuses of rows that have one
TEXTS: Final = ("prompt", "source_prompt")  # of the manifest, which the results do not repeat
UNANSWERED: Final = "not answered yet"
NOT_WHERE: Final = "not --where"
# Of our own columns those that mean something outside of the run; metrics and the caller's all do.
LEAVING: Final = ("key", "status", "seed", "candidate", "width", "height", "sha256", "background_changed_px")
_ROW: Final = "__row"


@dataclass(frozen=True)
class Choice:
    """The rows that leave."""

    rows: pa.Table  # results with ``TEXTS``, in the order in which they leave
    columns: tuple[str, ...]  # that leave with them; ``key`` first
    left_out: Mapping[str, int]  # reason to rows


def choose(
    table: pa.Table,
    asked: pa.Table,
    texts: pa.Table,
    *,
    statuses: Collection[str] = (SUCCESS,),
    where: str | None = None,
    columns: Sequence[str] | None = None,
) -> Choice:
    """Choose among the answers of a run.

    Args:
        table: its results.
        asked: with the ``key`` of every row that it was asked for.
        texts: with ``key``, and of ``TEXTS`` those that there are.
        statuses: of the rows that may leave, among ``WITH_IMAGE``.
        where: what else holds of them: a condition of DuckDB's SQL over the results' columns and ``TEXTS``.
        columns: that leave; all that mean something outside of the run where None.

    Raises:
        ConfigError: a status without images, a condition that is none, an unknown column, or no row is left.
    """
    if wrong := [status for status in statuses if status not in WITH_IMAGE]:
        raise ConfigError(f"rows of status {wrong[0]!r} have no image; those that have: {', '.join(WITH_IMAGE)}")
    table = _with_texts(table, texts)
    names = _columns(table, columns)
    left_out = Counter({UNANSWERED: row_sets.without_keys(asked, table).num_rows})
    left_out.update(status for status in table["status"].to_pylist() if status not in statuses)
    table = table.filter(pc.is_in(table["status"], pa.array(sorted(statuses), pa.string())))
    if where is not None:
        found = table.take(pa.array(_where(table, where), pa.int64()))
        left_out[NOT_WHERE] = table.num_rows - found.num_rows
        table = found
    counts = {reason: rows for reason, rows in sorted(left_out.items()) if rows}
    if not table.num_rows:
        said = ", ".join(f"{rows} {reason}" for reason, rows in counts.items()) or "it has none"
        raise ConfigError(f"no row is left to export: {said}")
    return Choice(_ordered(table), names, counts)


def _with_texts(table: pa.Table, texts: pa.Table) -> pa.Table:
    places = pc.index_in(table["key"], value_set=texts["key"])
    for name in TEXTS:
        if name in texts.column_names and name not in table.column_names:
            table = table.append_column(name, texts[name].take(places))
    return table


def _columns(table: pa.Table, asked: Sequence[str] | None) -> tuple[str, ...]:
    there = table.column_names
    if asked is None:
        ours = set(RESULT_FIELDS.names) | set(TEXTS)
        chosen = [name for name in (*LEAVING, *TEXTS) if name in there]
        return (*chosen, *(name for name in there if name not in ours))
    if unknown := [name for name in asked if name not in there]:
        said = nearest(unknown[0], there) or f"; there are: {', '.join(there)}"
        raise ConfigError(f"--columns names {unknown[0]!r}, which the results do not have{said}")
    return tuple(dict.fromkeys(["key", *asked]))


def _where(table: pa.Table, condition: str) -> list[int]:
    """Numbers of the rows for which the condition holds, in order."""
    import duckdb

    numbered = table.append_column(_ROW, pa.array(range(table.num_rows), pa.int64()))
    # A condition is no program: it reaches neither files nor this process's variables.
    settings: dict[str, Any] = {"enable_external_access": "false", "python_enable_replacements": "false"}
    try:
        with duckdb.connect(":memory:", config=settings) as database:
            found = database.from_arrow(numbered).filter(condition).project(_ROW).fetchall()
    except duckdb.Error as error:
        raise ConfigError(f"--where {condition!r}: {' '.join(str(error).split())}") from None
    return sorted(row for (row,) in found)


def _ordered(table: pa.Table) -> pa.Table:
    """By key; images of one shard together, so that it is fetched once."""
    shards = [file_of(address) if MEMBER in address else "" for address in table["output"].to_pylist()]
    order = sorted(range(table.num_rows), key=lambda row: shards[row])  # stable: by key within
    return table.take(pa.array(order, pa.int64())).combine_chunks()
