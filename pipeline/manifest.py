"""Read, check, key and fingerprint a manifest; leave out what is answered. Knows no editor and what it needs.

A manifest is one or more Parquet files: an address, a folder, a glob, or a list of these. A relative address in an
image cell is relative to the folder of the manifest file that it stands in.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.columns import IMAGE_COLUMNS, as_structs, callers, canonical, check_texts, joined, map_addresses
from pipeline.errors import ManifestError, StorageError
from pipeline.redaction import redacted
from pipeline.schema import REQUEST_COLUMNS

THREADS: Final = 8  # manifest files read side by side
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
        return pa.schema([field for field in self.table.schema if field.name not in REQUEST_COLUMNS])


def read(sources: str | Sequence[str]) -> Manifest:
    """Read a manifest and check it.

    Every request column is brought to one type (``columns.canonical``); where files mix addresses and bytes, to
    ``{bytes, path}`` structs. A file without ``key`` gets keys derived from its request columns as they are written. A
    caller's column that would hide one of the results (``width``, ``status``, ...) gets ``input_`` before its name.

    Args:
        sources: Parquet file, folder, glob, or several of these, on any fsspec URL.

    Raises:
        ManifestError: nothing there, not Parquet, no image column, a column whose type cannot have its meaning, a key
            that is missing or there twice; names the file and the column, or the keys.
    """
    files = _expand([sources] if isinstance(sources, str) else sources)
    with ThreadPoolExecutor(THREADS) as threads:
        loaded = list(threads.map(_load, files))
    tables = [table for table, _ in loaded]
    for name in IMAGE_COLUMNS:
        if len({table.schema.field(name).type for table in tables if name in table.column_names}) > 1:
            tables = [_with_structs(table, name) for table in tables]
    table = joined(tables, files)
    _check_keys(table["key"].to_pylist())
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
    wanted = _addresses(table, images) if identities == "stat" else []
    found: dict[str, str | None] = dict.fromkeys(wanted)
    found |= storage.identities(_that_may_be_there(wanted))
    requests = table.select(names).to_pylist()
    pictures = {name: _identified(table[name], found) for name in images}
    digests = [
        _fingerprint(run, request, {name: cells[row] for name, cells in pictures.items()}, found)
        for row, request in enumerate(requests)
    ]
    return table.append_column(pa.field("fingerprint", pa.string(), nullable=False), pa.array(digests, pa.string()))


def leave_out(table: pa.Table, answered: Mapping[str, str]) -> pa.Table:
    """The rows without an answer to their fingerprint.

    Args:
        table: with the columns ``key`` and ``fingerprint``.
        answered: key to fingerprint of the answers that count.
    """
    pairs = zip(table["key"].to_pylist(), table["fingerprint"].to_pylist(), strict=True)
    return table.filter(pa.array([answered.get(key) != fingerprint for key, fingerprint in pairs], pa.bool_()))


def to_blocks(table: pa.Table, rows_per_block: int) -> list[pa.Table]:
    """The rows in order, ``rows_per_block`` at a time; the last block may have fewer."""
    return [table.slice(start, rows_per_block) for start in range(0, table.num_rows, rows_per_block)]


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
    raw = _read_file(file)
    check_texts(raw, file)
    names = [name for name in REQUEST_COLUMNS if name in raw.column_names]
    columns = {name: canonical(name, raw[name], file) for name in names}
    requests = pa.table(columns)
    keys = columns["key"] if "key" in columns else pa.chunked_array([pa.array(_derived_keys(requests), pa.string())])
    folder = file.rpartition("/")[0]
    try:
        columns |= {n: map_addresses(columns[n], lambda a: _absolute(a, folder)) for n in IMAGE_COLUMNS if n in columns}
    except UnicodeEncodeError:
        raise ManifestError(f"{file!r}: no image can be named in a folder whose name is no UTF-8; rename it") from None
    passed, renamed = callers(raw)
    columns |= {"key": keys} | {name: passed[name] for name in passed.column_names}
    return pa.table(columns), renamed


def _read_file(file: str) -> pa.Table:
    try:
        with storage.open_input(file) as source, pq.ParquetFile(source) as parquet:
            table = parquet.read()
    except StorageError as error:
        raise ManifestError(f"manifest cannot be read: {error}") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ManifestError(f"{file} is no Parquet file: {' '.join(str(error).split())}") from None
    twice = [name for name, times in Counter(table.column_names).items() if times > 1]
    if twice:
        raise ManifestError(f"{file} has {len(twice)} column names twice, first {twice[0]!r}; rename one")
    if "image" not in table.column_names:
        raise ManifestError(f"{file} has no column 'image'; its columns: {', '.join(table.column_names) or 'none'}")
    return table


def _absolute(address: str, folder: str) -> str:
    """An image cell's address from everywhere: workers have other working directories."""
    if "://" in address or address.startswith("/") or not address:
        return address
    path = storage.local_path(folder or ".")
    return storage.join(folder if path is None else str(path), address)


def _with_structs(table: pa.Table, name: str) -> pa.Table:
    if name not in table.column_names:
        return table
    return table.set_column(table.column_names.index(name), name, as_structs(table[name]))


def _check_keys(keys: Sequence[str | None]) -> None:
    empty = [row for row, key in enumerate(keys) if not key]
    if empty:
        raise ManifestError(f"{len(empty)} rows have no key, first row {empty[0]}; fill the column or leave it out")
    together = "\n".join(key or "" for key in keys)
    telling = [] if redacted(together) == together else [n for n, key in enumerate(keys) if redacted(key or "") != key]
    if telling:
        raise ManifestError(
            f"{len(telling)} keys hold a password or a signature, first row {telling[0]}; keys name files and rows of "
            "the results: give others, or leave the column out"
        )
    twice = [key for key, times in Counter(keys).items() if times > 1]
    if twice:
        named = ", ".join(repr(key) for key in twice[:_SHOWN])
        raise ManifestError(
            f"{len(twice)} keys are there more than once: {named}; make them unique (rows without a column "
            f"'key' get one from their content, so rows that are alike need the column)"
        )


def _derived_keys(requests: pa.Table) -> list[str]:
    """Keys from the requests as they are written, so that a manifest keeps its keys when it moves."""
    plain = [name for name in requests.column_names if name not in IMAGE_COLUMNS]
    images = {name: _identified(requests[name], {}) for name in IMAGE_COLUMNS if name in requests.column_names}
    rows = requests.select(plain).to_pylist() if plain else [{}] * requests.num_rows
    texts = (_json({**row, **{name: cells[i] for name, cells in images.items()}}) for i, row in enumerate(rows))
    return [hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS] for text in texts]


def _identified(column: pa.ChunkedArray, found: Mapping[str, str | None]) -> list[str | None]:
    """Of each cell: its content's hash where known, else its address and what the storage says of it."""
    return [_cell_identity(cell.as_py(), found) for cell in column]


def _cell_identity(cell: Any, found: Mapping[str, str | None]) -> str | None:
    if isinstance(cell, Mapping):
        cell = cell["bytes"] or cell["path"]
    if isinstance(cell, bytes):
        return f"sha256:{hashlib.sha256(cell).hexdigest()}"
    if not cell or cell not in found:
        return cell or None
    identity = found[cell] or "missing"
    return identity if identity.startswith("sha256:") else f"{cell} {identity}"


def _addresses(table: pa.Table, images: Sequence[str]) -> list[str]:
    """What the storage is asked about: image cells without bytes, and checkpoints that are files."""
    wanted: dict[str, None] = {}
    for name in images:
        column = table[name]
        if pa.types.is_struct(column.type):
            wanted |= dict.fromkeys(path for path in _paths_alone(column) if path)
        elif pa.types.is_string(column.type):
            wanted |= dict.fromkeys(address for address in column.to_pylist() if address)
    if "checkpoint" in table.column_names:
        names = [name for name in table["checkpoint"].unique().to_pylist() if name]
        wanted |= dict.fromkeys(name for name in names if _is_file(name))
    return list(wanted)


def _that_may_be_there(addresses: Sequence[str]) -> Iterator[str]:
    """Addresses that can name an object at all. Another one counts as missing: its row says so, and no other's."""
    known: dict[str, bool] = {}
    for address in addresses:
        path = storage.local_path(address)
        if path is not None:
            if os.path.isfile(path) and os.access(path, os.R_OK):
                yield address
            continue
        store = "/".join(address.split("/", 3)[:3])  # asking costs: once a bucket
        if store not in known:
            known[store] = _is_store(store)
        if known[store]:
            yield address


def _is_store(address: str) -> bool:
    try:
        storage.filesystem(address)
    except (StorageError, TypeError, ValueError):  # no such scheme, or one that wants more than is said
        return False
    return True


def _paths_alone(column: pa.ChunkedArray) -> Iterator[str | None]:
    for chunk in column.chunks:
        for path, has_bytes in zip(chunk.field("path"), chunk.field("bytes").is_valid(), strict=True):
            if not has_bytes.as_py():
                yield path.as_py()


def _is_file(checkpoint: str) -> bool:
    scheme = checkpoint.partition("://")[0]
    return scheme not in {checkpoint, "hf"} or (scheme == checkpoint and os.path.isfile(checkpoint))


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
