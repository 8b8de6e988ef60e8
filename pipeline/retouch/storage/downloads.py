"""A remote file to a whole local one: once a machine, resumed, watched, verified. Knows nothing of what it holds.

On its way a file lies beside its place as ``.NAME.part``. Whoever dies leaves it there, and the next goes on behind its
last byte: the caller names places so that one place means one content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from retouch import storage, telemetry
from retouch.errors import ObjectMissing, StorageError
from retouch.redaction import redacted
from retouch.storage import local, remote
from retouch.storage.retries import retried

PART: Final = 16 << 20  # bytes a request
SIDE_BY_SIDE: Final = 4  # requests under way; what they hold is in memory
SAID_FROM: Final = 100 << 20  # bytes from which on a download says how far it is
INTERVAL: Final = 10.0  # seconds between two such lines
_MD5: Final = re.compile(r"etag:([0-9a-f]{32})")

Watcher = Callable[[int], None]  # told how many bytes have come
_watchers: list[Watcher] = []


class Differs(StorageError):
    """The content is not what was asked for."""

    def __init__(self, uri: str, sha256: str) -> None:
        super().__init__(f"{uri} has sha256 {sha256}")
        self.sha256 = sha256


def say(line: str) -> None:
    """A line for whoever waits, on standard error."""
    print(redacted(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Within, ``watcher`` is told of all bytes that come to this process, by whichever thread."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def came(count: int) -> None:
    """Tell the watchers of bytes; for clients that fetch by themselves."""
    telemetry.count("fetched_bytes", count)
    for watcher in tuple(_watchers):
        watcher(count)


def size_of(uri: str) -> int | None:
    """Bytes of a remote object; None where the store does not say.

    Raises:
        ObjectMissing: there is no such object.
        StorageError: it could not be told after bounded retries.
    """
    size = _info(uri)[1].get("size")
    return None if size is None else int(size)


def fetch(uri: str, path: Path, sha256: str | None = None) -> None:
    """Bring a file to its place unless one is there; of several processes on a machine one does, the others wait.

    Args:
        uri: of a remote object.
        path: its place.
        sha256: hex, of the content that is asked for.

    Raises:
        ObjectMissing: there is no such object.
        Differs: its content is another than asked for.
        StorageError: it could not be fetched after bounded retries; what came of it stays, to go on from.
    """
    if path.is_file():
        return
    lock = path.with_name(f".{path.name}.lock")
    with local.locked(lock, lambda: say(f"another process of this machine fetches {uri}; waiting for it")):
        if not path.is_file():
            _fetch(uri, path, sha256)


def _info(uri: str) -> tuple[str, Mapping[str, Any]]:
    fs, inside = storage.filesystem(uri)
    info = retried(uri, lambda: remote.info(fs, inside))
    if info is None or info.get("type") == "directory":
        raise ObjectMissing(f"no object at {uri}")
    return remote.identity_of(info), info


def _fetch(uri: str, path: Path, sha256: str | None) -> None:
    rough = path.with_name(f".{path.name}.part")
    begun = rough.is_file()
    if sha256 is None:
        _bring_unpinned(uri, rough)
    elif (found := _brought(uri, rough, "sha256")) != sha256:
        rough.unlink()
        if begun:  # what was there may be at fault
            return _fetch(uri, path, sha256)
        raise Differs(uri, found)
    local.flush(rough)
    os.replace(rough, path)
    return None


def _bring_unpinned(uri: str, rough: Path) -> None:
    """Without a pin, the object's identity is to stay, and its bytes to have the MD5 that an ETag of S3 mostly is."""
    before = ""
    while True:
        identity = _info(uri)[0]
        md5 = _MD5.fullmatch(identity)
        found = _brought(uri, rough, "md5" if md5 else None)
        if _info(uri)[0] != identity:
            rough.unlink()
            raise StorageError(f"{uri} changed while it was fetched; run it again")
        if md5 is None or found in (md5[1], before):  # the same bytes twice: the ETag is no MD5
            return
        rough.unlink()
        if before:
            raise StorageError(f"{uri}: other bytes come every time; see to the connection, or pin its sha256")
        before = found


def _brought(uri: str, rough: Path, algorithm: str | None) -> str:
    """Bring what is missing of a file; its digest, or nothing where no algorithm is asked for."""
    rough.parent.mkdir(parents=True, exist_ok=True)
    _bring(uri, _info(uri)[1], rough)
    if algorithm is None:
        return ""
    with rough.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _bring(uri: str, info: Mapping[str, Any], rough: Path) -> None:
    """All bytes of an object to a file that may hold the first of them already."""
    size = info.get("size")
    if size is not None and int(size) <= PART:
        rough.write_bytes(storage.read_bytes(uri))  # whole, so its bytes are held against the store's hash on the way
        came(int(size))
        return
    try:
        if size is not None and info.get("partial", True):
            _append(uri, rough, int(size))
            return
    except _NoParts:
        pass
    storage.download(uri, rough)
    came(rough.stat().st_size)


class _NoParts(StorageError):
    """A web server that gives all where a part is asked for."""


def _append(uri: str, rough: Path, size: int) -> None:
    fs, inside = storage.filesystem(uri)

    def part(start: int) -> bytes:
        end = min(start + PART, size)
        data = retried(uri, lambda: _part(fs, inside, start, end, size))
        if len(data) != end - start:
            raise StorageError(f"{uri}: {len(data)} bytes came where {end - start} were asked for; it changed, perhaps")
        came(len(data))  # as soon as it has: parts are written in order, and the first may be the slowest
        return data

    have = rough.stat().st_size if rough.is_file() else 0
    if have > size:
        rough.unlink()
        have = 0
    progress = _Progress(uri, size, have)
    with rough.open("ab") as file, ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        while have < size:
            stop = min(have + PART * SIDE_BY_SIDE, size)
            for data in threads.map(part, range(have, stop, PART)):
                file.write(data)
                progress.add(len(data))
            file.flush()
            os.fsync(file.fileno())  # after a power cut, a file's length may say more than its bytes
            have = stop


def _part(fs: Any, inside: str, start: int, end: int, size: int) -> bytes:
    if "http" not in fs.protocol:
        return bytes(fs.cat_file(inside, start=start, end=end))
    try:
        with fs.open(inside, cache_type="none", size=size) as file:
            file.seek(start)
            return bytes(file.read(end - start))
    except ValueError as error:  # more bytes than asked for
        raise _NoParts from error


class _Progress:
    """Says how far a download is, where it takes long."""

    def __init__(self, uri: str, size: int, have: int) -> None:
        self.uri, self.size, self.have, self.first = uri, size, have, have
        self._began = self._said = time.monotonic()
        if size >= SAID_FROM:
            say(f"fetching {uri}: {size / 1e9:.2f} GB" + (f", {have / 1e9:.2f} of them here already" if have else ""))

    def add(self, count: int) -> None:
        self.have += count
        now = time.monotonic()
        if self.size >= SAID_FROM and (now - self._said >= INTERVAL or self.have == self.size):
            self._said = now
            rate = (self.have - self.first) / 1e6 / max(now - self._began, 1e-9)
            say(f"fetching {self.uri}: {self.have / 1e9:.2f} of {self.size / 1e9:.2f} GB, {rate:.0f} MB/s")
