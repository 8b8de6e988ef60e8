"""Identify a row's inputs: by content if it is at hand, else by address with ETag, or size and modification time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retouch import storage
from retouch.errors import StorageError
from retouch.manifests import columns, deferred_images


def look_up(table: pa.Table, images: Sequence[str]) -> dict[str, str | None]:
    """Return the identity of every file that the rows name, by address; None for a missing or impossible file.

    Args:
        table: a ``Manifest.table``.
        images: its image columns.

    Raises:
        StorageError: an identity could not be read after bounded retries.
    """
    wanted = _addresses(table, images)
    found: dict[str, str | None] = dict.fromkeys(wanted)
    return found | storage.identities(_possible(wanted))


def identify_cells(column: pa.ChunkedArray, found: Mapping[str, str | None]) -> list[str | None]:
    """Return each cell's identity: its content's hash if known, else its address with the storage's identity."""
    return [_cell_identity(cell.as_py(), found) for cell in column]


def _cell_identity(cell: Any, found: Mapping[str, str | None]) -> str | None:
    source = columns.image_source(cell)
    if isinstance(source, bytes):
        return f"sha256:{hashlib.sha256(source).hexdigest()}"
    if not source or source not in found:
        return source or None
    identity = found[source] or "missing"
    return identity if identity.startswith("sha256:") else f"{source} {identity}"


def _addresses(table: pa.Table, images: Sequence[str]) -> list[str]:
    """Return the addresses to look up: image cells without bytes, and checkpoints that are files."""
    wanted: dict[str, None] = {}
    for name in images:
        column = table[name]
        if pa.types.is_struct(column.type):
            wanted |= dict.fromkeys(path for path in _paths_alone(column) if path)
        elif pa.types.is_string(column.type):
            if deferred_images.FILE in table.column_names:  # digests are not addresses
                column = column.filter(pc.invert(pc.starts_with(column, deferred_images.MARK)))
            wanted |= dict.fromkeys(address for address in pc.unique(column).to_pylist() if address)
    if "checkpoint" in table.column_names:
        names = [name for name in table["checkpoint"].unique().to_pylist() if name]
        wanted |= dict.fromkeys(name for name in names if is_file(name))
    return list(wanted)


def _possible(addresses: Sequence[str]) -> Iterator[str]:
    """Yield the addresses that can name an object; any other counts as missing and fails its row alone."""
    known: dict[str, bool] = {}
    for address in addresses:
        path = storage.local_path(address)
        if path is not None:
            if os.path.isfile(path) and os.access(path, os.R_OK):
                yield address
            continue
        store = "/".join(address.split("/", 3)[:3])  # looked up once per bucket
        if store not in known:
            known[store] = _is_store(store)
        if known[store]:
            yield address


def _is_store(address: str) -> bool:
    try:
        storage.filesystem(address)
    except (StorageError, TypeError, ValueError):  # an unknown scheme, or one that needs more settings
        return False
    return True


def _paths_alone(column: pa.ChunkedArray) -> Iterator[str | None]:
    for chunk in column.chunks:
        for path, has_bytes in zip(chunk.field("path"), chunk.field("bytes").is_valid(), strict=True):
            if not has_bytes.as_py():
                yield path.as_py()


def is_file(checkpoint: str) -> bool:
    """Return whether a checkpoint cell is a file's address and not a role of the job's weights or a hub's file."""
    scheme = checkpoint.partition("://")[0]
    return scheme not in {checkpoint, "hf"} or (scheme == checkpoint and os.path.isfile(checkpoint))
