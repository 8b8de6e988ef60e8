"""Read, check, key and fingerprint a manifest; leave out what is answered. Knows no editor and what it needs.

A manifest is one or more Parquet files: an address, a folder, a glob, or a list of these. A relative address in an
image cell is relative to the folder of the manifest file that it stands in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import storage
from retouch.errors import ManifestError, StorageError
from retouch.manifests import deferred_images, input_identity, row_sets
from retouch.manifests.columns import IMAGE_COLUMNS, as_structs, callers, canonical, check_texts, joined, map_addresses
from retouch.redaction import redacted
from retouch.schema import REQUEST_COLUMNS

THREADS: Final = 8  # manifest files read side by side
ROWS_IN_MEMORY: Final = 4096  # of a manifest whose images stay far
AT_ONCE: Final = 50_000  # rows whose cells are objects of Python's at the same time
KEY_DIGITS: Final = 20  # hex digits of a derived key: a billion rows meet with a chance of one in two million
_SHOWN: Final = 5  # keys that an error names


@dataclass(frozen=True)
class Manifest:
    """A checked manifest in memory."""

    table: pa.Table  # ``key`` (string, unique), the request columns that there are, then the caller's columns
    files: tuple[str, ...]
    renamed: Mapping[str, str]  # the caller's columns that got another name, old to new

    @property
    def caller(self) -> pa.Schema:
        """The columns that are passed through to the results."""
        return callers_of(self.table.schema)


def callers_of(schema: pa.Schema) -> pa.Schema:
    """The caller's columns among those of a manifest's table, or of a plan's rows."""
    ours = {*REQUEST_COLUMNS, *deferred_images.COLUMNS, "fingerprint"}
    return pa.schema([field for field in schema if field.name not in ours])


def read(sources: str | Sequence[str], *, far: bool = False) -> Manifest:
    """Read a manifest and check it.

    Every request column is brought to one type (``columns.canonical``); where files mix addresses and bytes, to
    ``{bytes, path}`` structs. A file without ``key`` gets keys derived from its request columns as they are written. A
    caller's column that would hide one of the results (``width``, ``status``, ...) gets ``input_`` before its name.

    Args:
        sources: Parquet file, folder, glob, or several of these, on any fsspec URL.
        far: images' bytes may stay in the files where they are many: the rows then are for ``deferred_images.filled``.

    Raises:
        ManifestError: nothing there, not Parquet, no image column, a column whose type cannot have its meaning, a key
            that is missing or there twice; names the file and the column, or the keys.
    """
    files = _expand([sources] if isinstance(sources, str) else sources)
    load = _load_far if far and deferred_images.stay_far(files) else _load
    with ThreadPoolExecutor(THREADS) as threads:
        loaded = list(threads.map(load, files))
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


def with_fingerprints(
    table: pa.Table, decides: Mapping[str, Any], *, identities: Literal["stat", "uri"] = "stat"
) -> pa.Table:
    """The table with a column ``fingerprint``: the sha256 of all that decides a row's pixels.

    That is the request with its key (the noise depends on it), the identity of its inputs, and ``decides``. Inputs are
    identified by their content where that is at hand (bytes in the manifest, local files), else by address and ETag,
    or size and time; one that is not there, or cannot be, counts as such, so its row is asked again once it is.

    Args:
        table: a ``Manifest.table``.
        decides: what decides pixels beside the row: editor, version, parameters, weights' hashes, ... as JSON values.
        identities: ``uri`` trusts that an address never gets another content, and asks the storage nothing.

    Raises:
        StorageError: an input's identity could not be had after bounded retries.
    """
    run = hashlib.sha256(_json(dict(decides)).encode()).hexdigest()
    names = [name for name in REQUEST_COLUMNS if name in table.column_names and name not in IMAGE_COLUMNS]
    images = [name for name in IMAGE_COLUMNS if name in table.column_names]
    found = input_identity.looked_up(table, images) if identities == "stat" else {}
    digests = [
        pa.array(_fingerprints(run, table.slice(start, AT_ONCE), names, images, found), pa.string())
        for start in range(0, table.num_rows, AT_ONCE)
    ]
    column = pa.chunked_array(digests, pa.string())
    return table.append_column(pa.field("fingerprint", pa.string(), nullable=False), column)


def _expand(sources: Sequence[str]) -> list[str]:
    found: list[str] = []
    for source in sources:
        try:
            files = _files_at(source)
        except (StorageError, OSError, ValueError) as error:
            raise ManifestError(f"manifest cannot be looked for: {' '.join(str(error).split())}") from None
        if not files:
            raise ManifestError(f"no Parquet file at {source}")
        found += files
    if not found:
        raise ManifestError("no manifest is named; give a Parquet file, a folder or a glob")
    return list(dict.fromkeys(found))


def _files_at(source: str) -> list[str]:
    if storage.is_folder(source):
        return storage.list_files(source, ".parquet")
    if any(sign in source for sign in "*?[") and not storage.exists(source):
        return storage.glob(source)
    return [source]


def _load(file: str) -> tuple[pa.Table, dict[str, str]]:
    """One file's rows, checked, and its caller's columns that were renamed."""
    with _opened(file) as parquet:
        return _checked(parquet.read(), file)


def _load_far(file: str) -> tuple[pa.Table, dict[str, str]]:
    """The same, some rows at a time, the images' bytes left where they are."""
    parts, first = [], 0
    renamed: dict[str, str] = {}
    with _opened(file) as parquet:
        parts.append(deferred_images.far(_checked(parquet.schema_arrow.empty_table(), file)[0], file, 0))
        for batch in parquet.iter_batches(ROWS_IN_MEMORY):
            table, renamed = _checked(pa.Table.from_batches([batch]), file)
            parts.append(deferred_images.far(table, file, first))
            first += batch.num_rows
    return pa.concat_tables(parts, promote_options="permissive"), renamed


def _checked(raw: pa.Table, file: str) -> tuple[pa.Table, dict[str, str]]:
    check_texts(raw, file)
    names = [name for name in REQUEST_COLUMNS if name in raw.column_names]
    columns = {name: canonical(name, raw[name], file) for name in names}
    requests = pa.table(columns)
    keys = columns["key"] if "key" in columns else pa.chunked_array([pa.array(_derived_keys(requests), pa.string())])
    folder = file.rpartition("/")[0]
    try:
        columns |= {
            n: map_addresses(columns[n], lambda a: storage.resolved(a, folder)) for n in IMAGE_COLUMNS if n in columns
        }
    except UnicodeEncodeError:
        raise ManifestError(f"{file!r}: no image can be named in a folder whose name is no UTF-8; rename it") from None
    passed, renamed = callers(raw)
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
        raise ManifestError(f"{file} is no Parquet file: {' '.join(str(error).split())}") from None


def _check_names(names: Sequence[str], file: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ManifestError(f"{file} has {len(twice)} column names twice, first {twice[0]!r}; rename one")
    if "image" not in names:
        raise ManifestError(f"{file} has no column 'image'; its columns: {', '.join(names) or 'none'}")


def _with_structs(table: pa.Table, name: str) -> pa.Table:
    if name not in table.column_names:
        return table
    return table.set_column(table.column_names.index(name), name, as_structs(table[name]))


def _check_keys(column: pa.ChunkedArray) -> None:
    empty = pc.fill_null(pc.equal(column, ""), True)
    if pc.any(empty).as_py():
        rows, first = pc.sum(empty).as_py(), pc.index(empty, True).as_py()
        raise ManifestError(f"{rows} rows have no key, first row {first}; fill the column or leave it out")
    telling: list[int] = []
    for part, keys in enumerate(row_sets.pieces(column)):
        together = "\n".join(keys)
        if redacted(together) != together:
            telling += [part * row_sets.AT_ONCE + row for row, key in enumerate(keys) if redacted(key) != key]
    if telling:
        raise ManifestError(
            f"{len(telling)} keys hold a password or a signature, first row {telling[0]}; keys name files and rows of "
            "the results: give others, or leave the column out"
        )
    if pc.count_distinct(column).as_py() == len(column):
        return
    counts = pc.value_counts(column)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if twice:
        named = ", ".join(repr(key) for key in twice[:_SHOWN])
        raise ManifestError(
            f"{len(twice)} keys are there more than once: {named}; make them unique (rows without a column "
            f"'key' get one from their content, so rows that are alike need the column)"
        )


def _derived_keys(requests: pa.Table) -> list[str]:
    """Keys from the requests as they are written, so that a manifest keeps its keys when it moves."""
    plain = [name for name in requests.column_names if name not in IMAGE_COLUMNS]
    images = {
        name: input_identity.identified(requests[name], {}) for name in IMAGE_COLUMNS if name in requests.column_names
    }
    rows = requests.select(plain).to_pylist() if plain else [{}] * requests.num_rows
    texts = (_json({**row, **{name: cells[i] for name, cells in images.items()}}) for i, row in enumerate(rows))
    return [hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS] for text in texts]


def _fingerprints(
    run: str, rows: pa.Table, names: Sequence[str], images: Sequence[str], found: Mapping[str, str | None]
) -> list[str]:
    pictures = {name: input_identity.identified(rows[name], found) for name in images}
    return [
        _fingerprint(run, request, {name: cells[row] for name, cells in pictures.items()}, found)
        for row, request in enumerate(rows.select(names).to_pylist())
    ]


def _fingerprint(
    run: str, request: Mapping[str, Any], images: Mapping[str, str | None], found: Mapping[str, str | None]
) -> str:
    known = {name: value for name, value in {**request, **images}.items() if value is not None}
    if known.get("params"):
        known["params"] = _parsed(known["params"])
    if known.get("checkpoint") in found:
        known["checkpoint"] = [known["checkpoint"], found[known["checkpoint"]]]
    return hashlib.sha256(_json({"run": run, **known}).encode()).hexdigest()


def _parsed(text: str) -> Any:
    """JSON where it is, so that spacing and order decide nothing; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
