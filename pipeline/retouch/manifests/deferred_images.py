"""Image cells that stay in their manifest file until a worker needs them: for manifests that no memory holds.

In the table that plans a run, such a cell is the text ``sha256:HEX`` of its bytes, and two more columns say where the
row stands. ``filled`` puts the bytes in their place, a block at a time.
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
ROW: Final = "__manifest_row"  # in the file, from 0
COLUMNS: Final = (FILE, ROW)
MARK: Final = "sha256:"
FAR_FROM: Final = 512 << 20  # bytes of a manifest's image columns, from which on they stay in its files


def stay_far(files: Sequence[str]) -> bool:
    """Whether the image columns of these Parquet files are more than a driver should hold."""
    return sum(map(_bytes_of_images, files)) >= FAR_FROM


def far(table: pa.Table, file: str, first: int) -> pa.Table:
    """Rows of a manifest with digests in the place of bytes, and with ``COLUMNS``.

    Args:
        table: canonical columns.
        file: that it was read from.
        first: number of its first row there.
    """
    for name in IMAGE_COLUMNS:
        if name in table.column_names:
            cells = pa.array([_told(cell) for cell in table[name]], pa.string())
            table = table.set_column(table.column_names.index(name), name, cells)
    places = pa.DictionaryArray.from_arrays(pa.array(np.zeros(table.num_rows, np.int32)), pa.array([file]))
    rows = pa.array(np.arange(first, first + table.num_rows))
    return table.append_column(FILE, places).append_column(ROW, rows)


def filled(table: pa.Table) -> pa.Table:
    """The rows with their images' bytes, without ``COLUMNS``; a table that has no such columns as it is.

    Raises:
        ManifestError: a manifest file is another one by now.
        StorageError: one cannot be read.
    """
    if FILE not in table.column_names:
        return table
    files, rows = table[FILE].cast(pa.string()), table[ROW]
    parts = []
    for file in files.unique().to_pylist():
        mine = pc.equal(files, file)
        parts.append(_filled(table.filter(mine).drop_columns(list(COLUMNS)), file, rows.filter(mine).to_pylist()))
    kinds = {name: {part.schema.field(name).type for part in parts} for name in _images(table)}
    for name, found in kinds.items():
        if len(found) > 1:
            parts = [part.set_column(part.column_names.index(name), name, as_structs(part[name])) for part in parts]
    together = pa.concat_tables(parts)
    return together.take(pc.index_in(table["key"], value_set=together["key"]))


def _filled(table: pa.Table, file: str, rows: Sequence[int]) -> pa.Table:
    raw, folder = _rows_of(file, rows, _images(table)), file.rpartition("/")[0]
    for name in raw.column_names:
        cells = map_addresses(canonical(name, raw[name], file), lambda address: storage.resolved(address, folder))
        if [_told(cell) for cell in cells] != table[name].to_pylist():
            raise ManifestError(f"{file} was changed while the run was going on; run it again")
        table = table.set_column(table.column_names.index(name), name, cells)
    return table


def _rows_of(file: str, rows: Sequence[int], names: Sequence[str]) -> pa.Table:
    """Some rows of a file, in the order asked; only their row groups are read."""
    with storage.open_input(file) as source, pq.ParquetFile(source) as parquet:
        sizes = [parquet.metadata.row_group(number).num_rows for number in range(parquet.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = sorted(set((np.searchsorted(starts, rows, side="right") - 1).tolist()))
        if any(group >= len(sizes) for group in groups):
            raise ManifestError(f"{file} has fewer rows than when the run began; run it again")
        there = [name for name in names if name in parquet.schema_arrow.names]
        table = parquet.read_row_groups(groups, columns=there)
    held = np.concatenate([np.arange(starts[group], starts[group + 1]) for group in groups])
    return table.take(pa.array(np.searchsorted(held, rows)))


def _bytes_of_images(file: str) -> int:
    """Uncompressed size of a file's image columns; 0 where that cannot be told, which reading it will say better."""
    try:
        with storage.open_input(file) as source, pq.ParquetFile(source) as parquet:
            groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    except Exception:
        return 0
    wide = [
        number
        for number, column in enumerate(parquet.schema)
        if column.path.partition(".")[0] in IMAGE_COLUMNS and column.logical_type.type != "STRING"
    ]
    return sum(group.column(number).total_uncompressed_size for group in groups for number in wide)


def _told(cell: pa.Scalar) -> str | None:
    value = image_source(cell.as_py())
    return MARK + hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value


def _images(table: pa.Table) -> list[str]:
    return [name for name in IMAGE_COLUMNS if name in table.column_names]
