"""The files of the results table: list, read and merge them, and choose the row that counts for each key.

If a key has several rows, the one of the highest epoch counts; within an epoch a success, else the row of the last
file. The choice is made on a few columns. Full rows are streamed file by file, so that a table with all columns of all
rows is never in memory.
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
MAX_ROWS_PER_FILE: Final = 250_000  # of a merged file: about 50 MB, which is also the most that is in memory at once
EPOCH: Final = "__epoch"  # columns that reading adds: the epoch of a row's file,
ORDER: Final = "__order"  # and the file's position among all
DECIDING: Final = ("key", "status")  # columns that ``current_rows`` needs, besides the two above
RowMask = npt.NDArray[np.bool_]  # over the rows of all files, in order


def files(output: str) -> list[str]:
    """Return the files of the results table; rows of later files supersede those of earlier ones."""
    found = storage.list_files(storage.join(output, FOLDER), ".parquet")
    return sorted(found, key=lambda file: (epoch_of(file), is_block_file(file), _name(file)))


def epoch_of(path: str) -> int:
    """Return the number of the run that wrote a file."""
    number = _name(path).split("-")[1] if _name(path).count("-") >= 2 else ""
    return int(number) if number.isdigit() else 0


def is_block_file(path: str) -> bool:
    """Return whether a file holds the rows of one block, as opposed to merged ones."""
    return _name(path).startswith("part-")


def read(paths: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of the files in order, with the columns ``EPOCH`` and ``ORDER``.

    Raises:
        StorageError: a file cannot be read.
        OutputError: a file is not a results file, or a column's types in two files are incompatible.
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
        raise _incompatible(paths, error) from None


def read_file(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return one file's rows. Raises as ``read`` does."""
    # A block's file is small and read in one request; of a merged file only the wanted columns are fetched.
    source = io.BytesIO(storage.read_bytes(path)) if is_block_file(path) else storage.open_input(path)
    try:
        with source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            return file.read(None if columns is None else [name for name in columns if name in names])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OutputError(f"{path} is not a results file: {' '.join(str(error).split())}") from None


def current_rows(table: pa.Table) -> pa.Array:
    """Return the numbers of the rows that count, one per key, sorted by key.

    Args:
        table: with the columns ``DECIDING``, ``EPOCH`` and ``ORDER``.
    """
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
        differs = pc.not_equal(_one_array(keys.slice(1)), _one_array(keys.slice(0, len(keys) - 1)))
        last = pa.concat_arrays([differs, last])
    return order.filter(last)


def row_mask(table: pa.Table, rows: pa.Array) -> RowMask:
    """Return a mask of the table's rows that is True at these row numbers."""
    mask: RowMask = np.zeros(table.num_rows, np.bool_)
    mask[rows.to_numpy()] = True
    return mask


def stream_rows(paths: Sequence[str], rows: RowMask) -> Iterator[pa.Table]:
    """Yield the masked rows of the files in tables of up to ``MAX_ROWS_PER_FILE``, each sorted by key.

    All tables have the same columns; those that a file lacks are null in its rows.
    """
    schema = _schema_of(paths)
    held: list[pa.Table] = []
    start = 0
    for path in paths:
        table = read_file(path)
        table, start = table.filter(pa.array(rows[start : start + table.num_rows])), start + table.num_rows
        held.append(pa.concat_tables([schema.empty_table(), table], promote_options="permissive").select(schema.names))
        while sum(piece.num_rows for piece in held) >= MAX_ROWS_PER_FILE:
            together = pa.concat_tables(held)
            yield _sorted(together.slice(0, MAX_ROWS_PER_FILE))
            held = [together.slice(MAX_ROWS_PER_FILE)]
    if any(piece.num_rows for piece in held):
        yield _sorted(pa.concat_tables(held))


def merge(output: str, paths: Sequence[str], rows: RowMask, epoch: int) -> None:
    """Replace these files by merged ones that hold the masked rows.

    The merged files are written before the others are deleted, oldest first, so that a reader gets the same rows at
    any moment.
    """
    merged = []
    for table in stream_rows(paths, rows):
        merged.append(storage.join(output, FOLDER, f"all-{epoch:06d}-{row_sets.digest(table)}.parquet"))
        storage.write_table(merged[-1], table)
    for file in paths:
        if file not in merged:
            storage.delete(file)


def _schema_of(paths: Sequence[str]) -> pa.Schema:
    """Return one schema that fits all files' rows."""
    with ThreadPoolExecutor(THREADS) as threads:
        schemas = list(threads.map(_file_schema, paths))
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").remove_metadata()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise _incompatible(paths, error) from None


def _file_schema(path: str) -> pa.Schema:
    source = io.BytesIO(storage.read_bytes(path)) if is_block_file(path) else storage.open_input(path)
    with source, pq.ParquetFile(source) as file:
        return file.schema_arrow


def _sorted(table: pa.Table) -> pa.Table:
    return table.take(pc.sort_indices(table["key"]))


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


def _with_constant(table: pa.Table, name: str, value: int) -> pa.Table:
    return table.append_column(name, pa.repeat(pa.scalar(value, pa.int64()), table.num_rows))


def _incompatible(paths: Sequence[str], error: Exception) -> OutputError:
    text = " ".join(str(error).split())
    return OutputError(f"results in {paths[0].rpartition('/')[0]} have incompatible columns: {text}")


def _name(path: str) -> str:
    return path.rpartition("/")[2]
