"""Deferred images: image bytes that stay in their manifest file until a worker needs them, for manifests beyond memory.

In the table that plans a run such a cell is the text ``sha256:HEX`` of its bytes, and two more columns hold the row's
file and its number there. ``load_deferred`` reads the bytes, a block at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import storage
from retouch.errors import ManifestError
from retouch.manifests.columns import IMAGE_COLUMNS, as_structs, canonical, image_source, map_addresses

FILE: Final = "__manifest_file"
ROW: Final = "__manifest_row"  # row number in the file, from 0
COLUMNS: Final = (FILE, ROW)
MARK: Final = "sha256:"
DEFER_FROM: Final = 512 << 20  # bytes of image columns from which on images are deferred


def is_large(files: Sequence[str]) -> bool:
    """Return whether the image columns of these Parquet files are too large for a driver's memory."""
    return sum(map(_bytes_of_images, files)) >= DEFER_FROM


def defer(table: pa.Table, file: str, first: int) -> pa.Table:
    """Return a manifest's rows with digests in place of image bytes, and with ``COLUMNS``.

    Args:
        table: canonical columns.
        file: the manifest file of these rows.
        first: number of the table's first row in the file.
    """
    for name in IMAGE_COLUMNS:
        if name in table.column_names:
            cells = pa.array([_digest_or_address(cell) for cell in table[name]], pa.string())
            table = table.set_column(table.column_names.index(name), name, cells)
    files = pa.DictionaryArray.from_arrays(pa.array(np.zeros(table.num_rows, np.int32)), pa.array([file]))
    rows = pa.array(np.arange(first, first + table.num_rows))
    return table.append_column(FILE, files).append_column(ROW, rows)


def load_deferred(table: pa.Table) -> pa.Table:
    """Return the rows with their images' bytes, without ``COLUMNS``; a table without these columns as it is.

    Raises:
        ManifestError: a manifest file changed in the meantime.
        StorageError: one cannot be read.
    """
    if FILE not in table.column_names:
        return table
    files, rows = table[FILE].cast(pa.string()), table[ROW]
    parts = []
    for file in files.unique().to_pylist():
        here = pc.equal(files, file)
        parts.append(_load_from(file, rows.filter(here).to_pylist(), table.filter(here).drop_columns(list(COLUMNS))))
    kinds = {name: {part.schema.field(name).type for part in parts} for name in _images(table)}
    for name, found in kinds.items():
        if len(found) > 1:
            parts = [part.set_column(part.column_names.index(name), name, as_structs(part[name])) for part in parts]
    loaded = pa.concat_tables(parts)
    return loaded.take(pc.index_in(table["key"], value_set=loaded["key"]))


def _load_from(file: str, rows: Sequence[int], table: pa.Table) -> pa.Table:
    raw, folder = _rows_of(file, rows, _images(table)), file.rpartition("/")[0]
    for name in raw.column_names:
        cells = map_addresses(canonical(name, raw[name], file), lambda address: storage.resolved(address, folder))
        if [_digest_or_address(cell) for cell in cells] != table[name].to_pylist():
            raise ManifestError(f"{file} changed during the run; run it again")
        table = table.set_column(table.column_names.index(name), name, cells)
    return table


def _rows_of(file: str, rows: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Return some rows of a file, in the given order, reading only their row groups."""
    with storage.open_input(file) as source, pq.ParquetFile(source) as parquet:
        sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = sorted(set((np.searchsorted(starts, rows, side="right") - 1).tolist()))
        if any(group >= len(sizes) for group in groups):
            raise ManifestError(f"{file} has fewer rows than at the start of the run; run it again")
        present = [name for name in names if name in parquet.schema_arrow.names]
        table = parquet.read_row_groups(groups, columns=present)
    read = np.concatenate([np.arange(starts[group], starts[group + 1]) for group in groups])
    return table.take(pa.array(np.searchsorted(read, rows)))


def _bytes_of_images(file: str) -> int:
    """Return the uncompressed size of a file's image columns; 0 if unreadable, which reading the file will report."""
    try:
        with storage.open_input(file) as source, pq.ParquetFile(source) as parquet:
            groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    except Exception:
        return 0
    columns = [
        number
        for number, column in enumerate(parquet.schema)
        if column.path.partition(".")[0] in IMAGE_COLUMNS and column.logical_type.type != "STRING"
    ]
    return sum(group.column(number).total_uncompressed_size for group in groups for number in columns)


def _digest_or_address(cell: pa.Scalar) -> str | None:
    value = image_source(cell.as_py())
    return MARK + hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value


def _images(table: pa.Table) -> list[str]:
    return [name for name in IMAGE_COLUMNS if name in table.column_names]
