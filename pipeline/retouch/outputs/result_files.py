"""Files of the results table: which there are, their rows, which rows stand, and other files in their place.

Where a key is answered more than once, the answer of the highest epoch stands; within one, a success, else that of the
last file. What is decided is decided on a few columns; whole rows pass file by file, so that no table of all columns
and all rows is in memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import storage
from retouch.errors import OutputError
from retouch.manifests import row_sets
from retouch.schema import RESULT_FIELDS, SUCCESS

FOLDER: Final = "results"
THREADS: Final = 16
ROWS_A_FILE: Final = 250_000  # of a merged table: some 50 MB, and no more of it is in memory at once
EPOCH: Final = "__epoch"  # columns that reading adds: the epoch of a row's file,
ORDER: Final = "__order"  # and the file's position among all
DECIDING: Final = ("key", "status")  # what ``standing`` looks at
Rows = npt.NDArray[np.bool_]  # of all files' rows in order, which ones are meant


def files(output: str) -> list[str]:
    """Addresses of the files of the results table, in the order in which later ones stand over earlier ones."""
    found = storage.list_files(storage.join(output, FOLDER), ".parquet")
    return sorted(found, key=lambda file: (epoch_of(file), is_part(file), _name(file)))


def epoch_of(path: str) -> int:
    """The number of the run that wrote a file of the table."""
    number = _name(path).split("-")[1] if _name(path).count("-") >= 2 else ""
    return int(number) if number.isdigit() else 0


def is_part(path: str) -> bool:
    """Whether a file holds the answers to one block; else it is a merged one."""
    return _name(path).startswith("part-")


def read(paths: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of the files, in their order, with the columns ``EPOCH`` and ``ORDER``.

    Raises:
        StorageError: a file cannot be read.
        OutputError: one is no results file, or a column's types in two of them cannot be brought together.
    """
    if not paths:
        empty = pa.schema([*RESULT_FIELDS, (EPOCH, pa.int64()), (ORDER, pa.int64())]).empty_table()
        wanted = empty.schema.names if columns is None else (*columns, EPOCH, ORDER)
        return empty.select([name for name in wanted if name in empty.schema.names])
    with ThreadPoolExecutor(THREADS) as threads:
        tables = list(threads.map(lambda path: read_file(path, columns), paths))
    ordered = [
        _with_constant(_with_constant(table, EPOCH, epoch_of(path)), ORDER, index)
        for index, (path, table) in enumerate(zip(paths, tables, strict=True))
    ]
    try:
        return pa.concat_tables(ordered, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _unfit(paths, error) from None


def read_file(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One file's rows. Raises as ``read`` does."""
    # A part is small and comes in one request; of a merged file only the wanted columns are fetched.
    source = io.BytesIO(storage.read_bytes(path)) if is_part(path) else storage.open_input(path)
    try:
        with source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            return file.read(None if columns is None else [name for name in columns if name in names])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OutputError(f"{path} is no results file: {' '.join(str(error).split())}") from None


def standing(table: pa.Table) -> pa.Array:
    """Numbers of the rows that stand, one a key, sorted by key. The table has ``DECIDING``, ``EPOCH``, ``ORDER``."""
    ranked = pa.table(
        {
            "key": table["key"],
            "epoch": table[EPOCH],
            "success": pc.equal(table["status"], SUCCESS).cast(pa.int8()),
            "order": table[ORDER],
            "row": pa.array(np.arange(table.num_rows)),
        }
    )
    order = pc.sort_indices(ranked, [(name, "ascending") for name in ranked.column_names])
    keys = ranked["key"].take(order)
    if not len(keys):
        return order
    last = pa.array([True])
    if len(keys) > 1:
        differs = pc.not_equal(_whole(keys.slice(1)), _whole(keys.slice(0, len(keys) - 1)))
        last = pa.concat_arrays([differs, last])
    return order.filter(last)


def marked(table: pa.Table, rows: pa.Array) -> Rows:
    """Which rows of a table these numbers mean."""
    marks: Rows = np.zeros(table.num_rows, np.bool_)
    marks[rows.to_numpy()] = True
    return marks


def chosen(paths: Sequence[str], rows: Rows) -> Iterator[pa.Table]:
    """Whole rows of the files, those that are marked, in tables of at most ``ROWS_A_FILE``, each sorted by key.

    All have the same columns; those that a file lacks are null in its rows.
    """
    schema = _schema_of(paths)
    held: list[pa.Table] = []
    start = 0
    for path in paths:
        table = read_file(path)
        table, start = table.filter(pa.array(rows[start : start + table.num_rows])), start + table.num_rows
        held.append(pa.concat_tables([schema.empty_table(), table], promote_options="permissive").select(schema.names))
        while sum(part.num_rows for part in held) >= ROWS_A_FILE:
            together = pa.concat_tables(held)
            yield _sorted(together.slice(0, ROWS_A_FILE))
            held = [together.slice(ROWS_A_FILE)]
    if any(part.num_rows for part in held):
        yield _sorted(pa.concat_tables(held))


def replace(output: str, paths: Sequence[str], rows: Rows, epoch: int) -> None:
    """Put the marked rows of these files in the place of them all.

    The merged files are written before those that they replace are deleted, the oldest first: what is left at any
    moment still stands.
    """
    merged = []
    for table in chosen(paths, rows):
        merged.append(storage.join(output, FOLDER, f"all-{epoch:06d}-{row_sets.digest(table)}.parquet"))
        storage.write_table(merged[-1], table)
    for file in paths:
        if file not in merged:
            storage.delete(file)


def _schema_of(paths: Sequence[str]) -> pa.Schema:
    """One schema that all files' rows fit into."""
    with ThreadPoolExecutor(THREADS) as threads:
        schemas = list(threads.map(_file_schema, paths))
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").remove_metadata()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _unfit(paths, error) from None


def _file_schema(path: str) -> pa.Schema:
    source = io.BytesIO(storage.read_bytes(path)) if is_part(path) else storage.open_input(path)
    with source, pq.ParquetFile(source) as file:
        return file.schema_arrow


def _sorted(table: pa.Table) -> pa.Table:
    return table.take(pc.sort_indices(table["key"]))


def _whole(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


def _with_constant(table: pa.Table, name: str, value: int) -> pa.Table:
    return table.append_column(name, pa.repeat(pa.scalar(value, pa.int64()), table.num_rows))


def _unfit(paths: Sequence[str], error: Exception) -> OutputError:
    text = " ".join(str(error).split())
    return OutputError(f"results in {paths[0].rpartition('/')[0]} do not fit together: {text}")


def _name(path: str) -> str:
    return path.rpartition("/")[2]
