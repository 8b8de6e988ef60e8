"""What identifies a row's inputs: their content where it is at hand, else their address and what the storage says.

Knows cells and addresses, and nothing of keys or of what decides a row beside its inputs.
"""

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


def looked_up(table: pa.Table, images: Sequence[str]) -> dict[str, str | None]:
    """Address to identity of all files that the rows name; None where there is none, or cannot be.

    Args:
        table: a ``Manifest.table``.
        images: its image columns.

    Raises:
        StorageError: an identity could not be had after bounded retries.
    """
    wanted = _addresses(table, images)
    found: dict[str, str | None] = dict.fromkeys(wanted)
    return found | storage.identities(_that_may_be_there(wanted))


def identified(column: pa.ChunkedArray, found: Mapping[str, str | None]) -> list[str | None]:
    """Of each cell: its content's hash where known, else its address and what the storage says of it."""
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
    """What the storage is asked about: image cells without bytes, and checkpoints that are files."""
    wanted: dict[str, None] = {}
    for name in images:
        column = table[name]
        if pa.types.is_struct(column.type):
            wanted |= dict.fromkeys(path for path in _paths_alone(column) if path)
        elif pa.types.is_string(column.type):
            if deferred_images.FILE in table.column_names:  # digests are no addresses
                column = column.filter(pc.invert(pc.starts_with(column, deferred_images.MARK)))
            wanted |= dict.fromkeys(address for address in pc.unique(column).to_pylist() if address)
    if "checkpoint" in table.column_names:
        names = [name for name in table["checkpoint"].unique().to_pylist() if name]
        wanted |= dict.fromkeys(name for name in names if is_file(name))
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


def is_file(checkpoint: str) -> bool:
    """Whether a checkpoint cell is a file's address; else it names a role of the job's weights, or a hub's file."""
    scheme = checkpoint.partition("://")[0]
    return scheme not in {checkpoint, "hf"} or (scheme == checkpoint and os.path.isfile(checkpoint))
