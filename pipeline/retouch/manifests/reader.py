"""Read a manifest and check it.

A manifest is one or more Parquet files: an address, a folder, a glob, or a list of these. A relative address in an
image cell is relative to the folder of its manifest file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import storage
from retouch.errors import ManifestError, StorageError
from retouch.manifests import deferred_images, row_sets
from retouch.manifests.columns import (
    IMAGE_COLUMNS,
    as_structs,
    caller_columns,
    canonical,
    check_texts,
    joined,
    map_addresses,
    meant,
)
from retouch.manifests.files import ManifestFile, find, typed, with_partitions
from retouch.manifests.fingerprints import derived_keys
from retouch.redaction import redacted
from retouch.schema import REQUEST_COLUMNS

THREADS: Final = 8  # manifest files read in parallel
ROWS_PER_READ: Final = 4096  # of a manifest with deferred images
_KEYS_IN_ERRORS: Final = 5


@dataclass(frozen=True)
class Manifest:
    """A checked manifest in memory."""

    table: pa.Table  # ``key`` (string, unique), the other request columns present, then the caller's columns
    files: tuple[str, ...]
    renamed: Mapping[str, str]  # the caller's columns that were renamed, old name to new

    @property
    def caller(self) -> pa.Schema:
        """Return the schema of the columns that pass through to the results."""
        return caller_schema(self.table.schema)


def caller_schema(schema: pa.Schema) -> pa.Schema:
    """Return the caller's columns among those of a manifest's table, or of a plan's rows."""
    ours = {*REQUEST_COLUMNS, *deferred_images.COLUMNS, "fingerprint"}
    return pa.schema([field for field in schema if field.name not in ours])


def read(sources: str | Sequence[str], *, defer_images: bool = False) -> Manifest:
    """Return a checked manifest.

    Every request column is converted to one type (``columns.canonical``); image columns of files that mix addresses
    and bytes become ``{bytes, path}`` structs. A file without ``key`` gets keys derived from its request columns as
    written. A caller's column that would hide a column of the results (``width``, ``status``, ...) gets the prefix
    ``input_``.

    Args:
        sources: Parquet file, folder, glob, or several of these, on any fsspec URL; see ``files.find`` for what counts.
        defer_images: leave the images' bytes in the files if they are large; ``deferred_images.load_deferred`` reads
            them.

    Raises:
        ManifestError: no file, not Parquet, no image column, a column of a wrong type, a missing or duplicate key; the
            message names the file and the column, or the keys.
    """
    found = _expand([sources] if isinstance(sources, str) else sources)
    files = [file.address for file in found]
    load = _load_deferred if defer_images and deferred_images.is_large(files) else _load
    with ThreadPoolExecutor(THREADS) as threads:
        loaded = list(threads.map(load, files, typed(found)))
    tables = [table for table, _ in loaded]
    for name in IMAGE_COLUMNS:
        if len({table.schema.field(name).type for table in tables if name in table.column_names}) > 1:
            tables = [_with_structs(table, name) for table in tables]
    table = joined(tables, files)
    _check_keys(table["key"])
    wanted = [name for name in REQUEST_COLUMNS if name in table.column_names]
    passed = [name for name in table.column_names if name not in REQUEST_COLUMNS]
    renamed = {old: new for _, names in loaded for old, new in names.items()}
    return Manifest(table.select([*wanted, *passed]), tuple(files), renamed)


def _expand(sources: Sequence[str]) -> list[ManifestFile]:
    found: dict[str, ManifestFile] = {}
    for source in sources:
        try:
            files = find(source)
        except (StorageError, OSError, ValueError) as error:
            raise ManifestError(f"manifest cannot be found: {' '.join(str(error).split())}") from None
        if not files:
            raise ManifestError(f"no Parquet file at {source}")
        for file in files:
            found.setdefault(file.address, file)
    if not found:
        raise ManifestError("no manifest is given; name a Parquet file, a folder or a glob")
    return list(found.values())


def _load(file: str, partitions: Mapping[str, Any]) -> tuple[pa.Table, dict[str, str]]:
    """Return a file's rows, checked, and the caller's columns that were renamed."""
    with _opened(file) as parquet:
        return _checked(with_partitions(parquet.read(), partitions), file)


def _load_deferred(file: str, partitions: Mapping[str, Any]) -> tuple[pa.Table, dict[str, str]]:
    """Return the same as ``_load``, with deferred images, reading some rows at a time."""
    parts, first = [], 0
    renamed: dict[str, str] = {}
    with _opened(file) as parquet:
        empty = with_partitions(parquet.schema_arrow.empty_table(), partitions)
        parts.append(deferred_images.defer(_checked(empty, file)[0], file, 0))
        for batch in parquet.iter_batches(ROWS_PER_READ):
            table, renamed = _checked(with_partitions(pa.Table.from_batches([batch]), partitions), file)
            parts.append(deferred_images.defer(table, file, first))
            first += batch.num_rows
    return pa.concat_tables(parts, promote_options="permissive"), renamed


def _checked(raw: pa.Table, file: str) -> tuple[pa.Table, dict[str, str]]:
    check_texts(raw, file)
    names = [name for name in REQUEST_COLUMNS if name in raw.column_names]
    columns = {name: canonical(name, raw[name], file) for name in names}
    requests = pa.table(columns)
    keys = columns["key"] if "key" in columns else pa.chunked_array([pa.array(derived_keys(requests), pa.string())])
    folder = file.rpartition("/")[0]
    try:
        columns |= {
            n: map_addresses(columns[n], lambda a: storage.resolved(a, folder)) for n in IMAGE_COLUMNS if n in columns
        }
    except UnicodeEncodeError:
        raise ManifestError(f"{file!r}: the folder's name is not UTF-8, so images have no address; rename it") from None
    passed, renamed = caller_columns(raw)
    columns |= {"key": keys} | {name: passed[name] for name in passed.column_names}
    return pa.table(columns), renamed


@contextmanager
def _opened(file: str) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open_input(file) as source, pq.ParquetFile(source) as parquet:
            _check_names(parquet.schema_arrow.names, file)
            yield parquet
    except StorageError as error:
        raise ManifestError(f"manifest cannot be read: {error}") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ManifestError(f"{file} is not a Parquet file: {' '.join(str(error).split())}") from None


def _check_names(names: Sequence[str], file: str) -> None:
    duplicates = [name for name, count in Counter(names).items() if count > 1]
    if duplicates:
        raise ManifestError(f"{file} has {len(duplicates)} duplicate column names, first {duplicates[0]!r}; rename one")
    if "image" not in names:
        similar = next((name for name in names if meant(name, ["image"])), None)
        hint = f"; rename {similar!r} to 'image'" if similar else ""
        raise ManifestError(f"{file} has no column 'image'{hint}; its columns: {', '.join(names) or 'none'}")


def _with_structs(table: pa.Table, name: str) -> pa.Table:
    if name not in table.column_names:
        return table
    return table.set_column(table.column_names.index(name), name, as_structs(table[name]))


def _check_keys(column: pa.ChunkedArray) -> None:
    empty = pc.fill_null(pc.equal(column, ""), True)
    if pc.any(empty).as_py():
        rows, first = pc.sum(empty).as_py(), pc.index(empty, True).as_py()
        raise ManifestError(f"{rows} rows have no key, first row {first}; fill the column or leave it out")
    leaking: list[int] = []  # numbers of rows
    for chunk, keys in enumerate(row_sets.chunks(column)):
        text = "\n".join(keys)
        if redacted(text) != text:
            leaking += [chunk * row_sets.CHUNK_ROWS + row for row, key in enumerate(keys) if redacted(key) != key]
    if leaking:
        raise ManifestError(
            f"{len(leaking)} keys hold a password or a signature, first row {leaking[0]}; keys name files and rows of "
            "the results: give others, or leave the column out"
        )
    if pc.count_distinct(column).as_py() == len(column):
        return
    counts = pc.value_counts(column)
    duplicates = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if duplicates:
        named = ", ".join(repr(key) for key in duplicates[:_KEYS_IN_ERRORS])
        raise ManifestError(
            f"{len(duplicates)} keys are there more than once: {named}; make them unique (rows without a column "
            f"'key' get one from their content, so identical rows need the column)"
        )
