"""Bytes in, bytes out on any fsspec URL: whole or not at all, with bounded retries. Knows nothing of what they mean.

An address is a local path (relative ones start at the working directory), ``file://``, ``s3://``, ``memory://`` or any
other URL that an installed fsspec filesystem takes. S3's endpoint and credentials come from the standard environment
(``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ...), so a spawned worker that inherits it needs no more.
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

THREADS: Final = 32  # requests under way when many objects are asked for at once
WHOLE_BELOW: Final = 32 << 20  # bytes; such an object is fetched at once, which alone lets its bytes be checked
LISTED_FROM: Final = 500  # objects wanted of one folder from which listing it (1,000 a request) is cheaper than asking


def join(base: str, *parts: str) -> str:
    """The address of ``parts`` below ``base``, with single slashes between them."""
    tail = "/".join(part.strip("/") for part in parts if part.strip("/"))
    if not base or not tail:
        return base or tail
    return f"{base}{tail}" if base.endswith("/") else f"{base}/{tail}"


def resolved(address: str, folder: str) -> str:
    """An address that may be relative to a folder, from everywhere: workers have other working directories."""
    if "://" in address or address.startswith("/") or not address:
        return address
    path = local_path(folder or ".")
    return join(folder if path is None else str(path), address)


def local_path(uri: str) -> Path | None:
    """The absolute path of a local address, None where it lies elsewhere."""
    for scheme in ("file://", "local://"):
        if uri.startswith(scheme):
            return Path(uri.removeprefix(scheme)).absolute()
    return None if "://" in uri else Path(uri).absolute()


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of an address, and the path on it.

    Raises:
        StorageError: no installed filesystem takes such a URL.
    """
    path = local_path(uri)
    if path is not None:
        return fsspec.filesystem("file"), str(path)
    return remote.connect(uri)


def read_bytes(uri: str) -> bytes:
    """The whole object.

    Raises:
        ObjectMissing: there is none.
        StorageError: it could not be read after bounded retries.
    """
    path = local_path(uri)
    if path is not None:
        return retried(uri, path.read_bytes)
    fs, inside = filesystem(uri)
    return retried(uri, lambda: remote.read(fs, inside))


def write_bytes(uri: str, data: bytes, *, durable: bool = True) -> None:
    """Put an object in place whole, over one that is there; on return it is durable.

    Local: written beside its place, flushed to the disk, renamed. S3: one PUT (above 100 MiB a multipart upload, which
    is invisible until complete).

    Args:
        uri: its address.
        data: all of it.
        durable: False for what need not outlive the machine: a local file is not waited for until it is on the disk.

    Raises:
        StorageError: it could not be written after bounded retries; what was there before still is.
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
    """Put an object only where none is: of several that try at once, one gets True.

    True is sure even where a reply was lost and a second try met the first one's object. On an S3 gateway that ignores
    the condition (some do) two that race may both get it.

    Raises:
        StorageError: it could not be told after bounded retries.
    """
    path = local_path(uri)
    if path is not None:
        return retried(uri, lambda: local.create(path, data), writing=True)
    fs, inside = filesystem(uri)
    writer = secrets.token_hex(16)
    return retried(uri, lambda: remote.create(fs, inside, data, writer), writing=True)


def keeps_out(uri: str, data: bytes) -> bool:
    """Whether the store honours the condition of ``create_if_absent``: some S3 gateways put over what is there.

    Args:
        uri: an object that is there.
        data: what it holds, for a store that does put it again.

    Raises:
        StorageError: it could not be told after bounded retries.
    """
    if local_path(uri) is not None:
        return True
    fs, inside = filesystem(uri)
    return retried(uri, lambda: remote.keeps_out(fs, inside, data), writing=True)


def exists(uri: str) -> bool:
    """Whether there is an object or a folder."""
    return _kind(uri) is not None


def is_folder(uri: str) -> bool:
    """Whether there is a folder, or on an object store a prefix with objects below it."""
    return _kind(uri) == "directory"


def list_files(folder: str, suffix: str = "") -> list[str]:
    """Addresses of the files below a folder, at any depth, sorted; a folder that is not there has none.

    Names that begin with a dot are left out: files on their way into place are called so.
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
    """Addresses that match a pattern with ``*``, ``?`` or ``[...]``, sorted."""
    if local_path(pattern) is not None:
        return sorted(local_glob.glob(pattern.removeprefix("file://"), recursive=True))
    fs, inside = filesystem(pattern)
    found = retried(pattern, lambda: (fs.invalidate_cache(), fs.glob(inside))[1])
    return sorted(str(fs.unstrip_protocol(name)) for name in found)


def delete(uri: str) -> None:
    """Remove an object; one that is not there is as good as removed."""
    path = local_path(uri)
    if path is not None:
        return retried(uri, lambda: path.unlink(missing_ok=True), writing=True)
    fs, inside = filesystem(uri)

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(inside)

    return retried(uri, remove, writing=True)


def identity(uri: str) -> str:
    """What changes when the object's content does: ``sha256:...`` of a local file, ``etag:...``, or size and time.

    A local file is hashed because its time changes with every copy and checkout, and reading it is cheap.

    Raises:
        ObjectMissing: there is no such object.
        StorageError: it could not be told after bounded retries.
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
    """``identity`` of many objects, side by side; None where there is no such object.

    Raises:
        StorageError: one could not be told after bounded retries.
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
    """Hex sha256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_input(uri: str) -> BinaryIO:
    """A seekable file to read parts of an object from; every part is one request with its own retries.

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
        with local.beside(target) as rough:
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

    there = {str(info["name"]).rpartition("/")[2]: remote.identity_of(info) for info in retried(folder, entries)}
    return {uri: there.get(uri.rpartition("/")[2]) for uri in members}


def _kind(uri: str) -> str | None:
    path = local_path(uri)
    if path is not None:
        return "directory" if path.is_dir() else "file" if path.exists() else None
    fs, inside = filesystem(uri)
    info = retried(uri, lambda: remote.info(fs, inside))
    return None if info is None else str(info.get("type"))
