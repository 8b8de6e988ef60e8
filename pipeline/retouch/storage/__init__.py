"""Whole-object reads and writes on any fsspec URL, with bounded retries.

An address is a local path (relative ones start at the working directory), ``file://``, ``s3://``, ``memory://`` or any
other URL that an installed fsspec filesystem takes. S3's endpoint and credentials come from the standard environment
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ...), so a spawned worker needs nothing else.
"""

from __future__ import annotations

import contextlib
import glob as local_glob
import hashlib
import io
import os
import secrets
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import fsspec

from retouch.errors import ObjectMissing
from retouch.storage import local, remote
from retouch.storage.retries import retried

if TYPE_CHECKING:
    import pyarrow as pa

THREADS: Final = 32  # concurrent requests when many objects are asked for at once
WHOLE_BELOW: Final = 32 << 20  # bytes; a smaller object is read in one request, since only whole ones can be checked
LISTED_FROM: Final = (
    500  # objects of one folder from which one listing (1,000 per request) is cheaper than single requests
)


def join(base: str, *parts: str) -> str:
    """Return the address of ``parts`` below ``base``, with single slashes between them."""
    tail = "/".join(part.strip("/") for part in parts if part.strip("/"))
    if not base or not tail:
        return base or tail
    return f"{base}{tail}" if base.endswith("/") else f"{base}/{tail}"


def resolved(address: str, folder: str) -> str:
    """Return an address, relative to a folder, as an absolute one: workers have other working directories."""
    if "://" in address or address.startswith("/") or not address:
        return address
    path = local_path(folder or ".")
    return join(folder if path is None else str(path), address)


def local_path(uri: str) -> Path | None:
    """Return the absolute path of a local address; None for a remote one."""
    for scheme in ("file://", "local://"):
        if uri.startswith(scheme):
            return Path(uri.removeprefix(scheme)).absolute()
    return None if "://" in uri else Path(uri).absolute()


def filesystem(uri: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of an address, and the path on it.

    Raises:
        StorageError: no installed filesystem takes such a URL.
    """
    path = local_path(uri)
    if path is not None:
        return fsspec.filesystem("file"), str(path)
    return remote.connect(uri)


def read_bytes(uri: str) -> bytes:
    """Return the whole object.

    Raises:
        ObjectMissing: there is no such object.
        StorageError: it could not be read after bounded retries.
    """
    path = local_path(uri)
    if path is not None:
        return retried(uri, path.read_bytes)
    fs, inside = filesystem(uri)
    return retried(uri, lambda: remote.read(fs, inside))


def write_bytes(uri: str, data: bytes, *, durable: bool = True) -> None:
    """Write an object whole, replacing an existing one; on return it is durable.

    Local: a temporary file, flushed to the disk, then renamed. S3: one PUT (above 100 MiB a multipart upload, which is
    invisible until complete).

    Args:
        uri: its address.
        data: all of it.
        durable: False for what need not outlive the machine: a local file is not flushed to the disk.

    Raises:
        StorageError: it could not be written after bounded retries; an existing object is unchanged.
    """
    path = local_path(uri)
    if path is not None:
        return retried(uri, lambda: local.replace(path, data, durable=durable), writing=True)
    fs, inside = filesystem(uri)
    return retried(uri, lambda: remote.pipe(fs, inside, data), writing=True)


def write_table(uri: str, table: pa.Table) -> None:
    """Write a table as one Parquet file, whole or not at all, as ``write_bytes`` does.

    Raises:
        StorageError: it could not be written after bounded retries.
    """
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    write_bytes(uri, out.getvalue())


def create_if_absent(uri: str, data: bytes) -> bool:
    """Create an object unless one exists: of several concurrent callers, one gets True.

    True is certain even if a reply was lost and the second try found the first one's object. On an S3 gateway that
    ignores the condition (some do) two concurrent callers may both get it.

    Raises:
        StorageError: the store did not answer after bounded retries.
    """
    path = local_path(uri)
    if path is not None:
        return retried(uri, lambda: local.create(path, data), writing=True)
    fs, inside = filesystem(uri)
    writer = secrets.token_hex(16)
    return retried(uri, lambda: remote.create(fs, inside, data, writer), writing=True)


def keeps_out(uri: str, data: bytes) -> bool:
    """Return whether the store honours the condition of ``create_if_absent``: some S3 gateways overwrite the object.

    Args:
        uri: an existing object.
        data: its content, for a store that does write it again.

    Raises:
        StorageError: the store did not answer after bounded retries.
    """
    if local_path(uri) is not None:
        return True
    fs, inside = filesystem(uri)
    return retried(uri, lambda: remote.keeps_out(fs, inside, data), writing=True)


def exists(uri: str) -> bool:
    """Return whether an object or a folder exists."""
    return _kind(uri) is not None


def is_folder(uri: str) -> bool:
    """Return whether a folder exists, or on an object store a prefix with objects below it."""
    return _kind(uri) == "directory"


def list_files(folder: str, suffix: str = "") -> list[str]:
    """Return the addresses of the files below a folder, at any depth, sorted; none for a missing folder.

    Names that begin with a dot are left out: temporary files have such names.
    """
    path = local_path(folder)
    if path is not None:
        names: Iterable[str] = (found.relative_to(path).as_posix() for found in path.rglob("*") if found.is_file())
    else:
        fs, inside = filesystem(folder)
        names = (name[len(inside) :].lstrip("/") for name in retried(folder, lambda: remote.find(fs, inside)))
    wanted = (name for name in names if name.endswith(suffix) and not name.endswith("/") and name)
    return sorted(join(folder, name) for name in wanted if not name.rpartition("/")[2].startswith("."))


def glob(pattern: str) -> list[str]:
    """Return the addresses that match a pattern with ``*``, ``?`` or ``[...]``, sorted."""
    if local_path(pattern) is not None:
        return sorted(local_glob.glob(pattern.removeprefix("file://"), recursive=True))
    fs, inside = filesystem(pattern)
    found = retried(pattern, lambda: (fs.invalidate_cache(), fs.glob(inside))[1])
    return sorted(str(fs.unstrip_protocol(name)) for name in found)


def delete(uri: str) -> None:
    """Remove an object if it exists."""
    path = local_path(uri)
    if path is not None:
        return retried(uri, lambda: path.unlink(missing_ok=True), writing=True)
    fs, inside = filesystem(uri)

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(inside)

    return retried(uri, remove, writing=True)


def identity(uri: str) -> str:
    """Return what changes with an object's content: ``sha256:...`` of a local file, ``etag:...``, or size and time.

    A local file is hashed because its time changes with every copy and checkout, and reading it is cheap.

    Raises:
        ObjectMissing: there is no such object.
        StorageError: the store did not answer after bounded retries.
    """
    path = local_path(uri)
    if path is not None:
        return retried(uri, lambda: f"sha256:{sha256_of(path)}")
    fs, inside = filesystem(uri)
    info = retried(uri, lambda: remote.info(fs, inside))
    if info is None or info.get("type") == "directory":
        raise ObjectMissing(f"no object at {uri}")
    return remote.identity_of(info)


def identities(uris: Iterable[str]) -> dict[str, str | None]:
    """Return the ``identity`` of many objects, requested concurrently; None for a missing object.

    Raises:
        StorageError: the store did not answer after bounded retries.
    """
    folders: dict[str, list[str]] = defaultdict(list)
    for uri in dict.fromkeys(uris):
        folders[uri.rpartition("/")[0]].append(uri)
    found: dict[str, str | None] = {}
    single: list[str] = []
    for folder, members in folders.items():
        if len(members) >= LISTED_FROM and local_path(folder) is None:
            found |= _listed(folder, members)
        else:
            single += members
    with ThreadPoolExecutor(THREADS) as threads:
        found |= zip(single, threads.map(_identity_or_none, single), strict=True)
    return found


def sha256_of(path: str | Path) -> str:
    """Return the hex sha256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_input(uri: str) -> BinaryIO:
    """Open an object as a seekable file; every read is one request with its own retries.

    Raises:
        ObjectMissing: there is no such object.
    """
    path = local_path(uri)
    if path is not None:
        return retried(uri, lambda: path.open("rb"))
    fs, inside = filesystem(uri)
    info = retried(uri, lambda: remote.info(fs, inside))
    if info is None or info.get("type") == "directory":
        raise ObjectMissing(f"no object at {uri}")
    if int(info["size"]) <= WHOLE_BELOW:
        return io.BytesIO(read_bytes(uri))

    def read_range(start: int, end: int) -> bytes:
        return retried(uri, lambda: bytes(fs.cat_file(inside, start=start, end=end)))

    return remote.as_file(read_range, int(info["size"]))


def download(uri: str, path: str | Path) -> None:
    """Copy an object to a local path, whole or not at all, without holding it in memory.

    Raises:
        ObjectMissing: there is no such object.
        StorageError: it could not be copied after bounded retries.
    """
    fs, inside = filesystem(uri)
    target = Path(path)

    def fetch() -> None:
        with local.temporary_name(target) as rough:
            fs.get_file(inside, str(rough))
            local.flush(rough)
            os.replace(rough, target)

    retried(uri, fetch)


def _identity_or_none(uri: str) -> str | None:
    try:
        return identity(uri)
    except ObjectMissing:
        return None


def _listed(folder: str, members: list[str]) -> dict[str, str | None]:
    fs, inside = filesystem(folder)

    def entries() -> list[Mapping[str, Any]]:
        fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            return list(fs.ls(inside, detail=True))
        return []

    listed = {str(info["name"]).rpartition("/")[2]: remote.identity_of(info) for info in retried(folder, entries)}
    return {uri: listed.get(uri.rpartition("/")[2]) for uri in members}


def _kind(uri: str) -> str | None:
    path = local_path(uri)
    if path is not None:
        return "directory" if path.is_dir() else "file" if path.exists() else None
    fs, inside = filesystem(uri)
    info = retried(uri, lambda: remote.info(fs, inside))
    return None if info is None else str(info.get("type"))
