"""Downloads of remote files to local ones: once per machine, resumed, watched, verified.

An incomplete file is called ``.NAME.part``. If a process dies, the next one resumes after its last byte: callers choose
paths so that one path means one content.
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

from filelock import FileLock, Timeout

from retouch import storage, telemetry
from retouch.errors import ObjectMissing, StorageError
from retouch.redaction import redacted
from retouch.storage import local, remote
from retouch.storage.retries import retried

PART: Final = 16 << 20  # bytes per request
PARALLEL_PARTS: Final = 4  # concurrent requests, each with its part in memory
REPORTED_FROM: Final = 100 << 20  # bytes from which on a download reports its progress
INTERVAL: Final = 10.0  # seconds between two progress lines
LOCK_INTERVAL: Final = 0.2  # seconds between two tries to get a lock that another process holds
_MD5: Final = re.compile(r"etag:([0-9a-f]{32})")

Watcher = Callable[[int], None]  # called with the number of received bytes
_watchers: list[Watcher] = []


class ContentMismatch(StorageError):
    """The content does not match its pinned sha256."""

    def __init__(self, uri: str, sha256: str) -> None:
        super().__init__(f"{uri} has sha256 {sha256}")
        self.sha256 = sha256


def log(line: str) -> None:
    """Print one line on standard error."""
    print(redacted(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Within the context, call ``watcher`` with the number of bytes that any thread of this process receives."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def received(count: int) -> None:
    """Report received bytes to the watchers; for clients with downloads of their own."""
    telemetry.count("fetched_bytes", count)
    for watcher in tuple(_watchers):
        watcher(count)


def size_of(uri: str) -> int | None:
    """Return the size of a remote object in bytes; None if the store does not report it.

    Raises:
        ObjectMissing: there is no such object.
        StorageError: the store did not answer after bounded retries.
    """
    size = _info(uri)[1].get("size")
    return None if size is None else int(size)


def fetch(uri: str, path: Path, sha256: str | None = None) -> None:
    """Download a file unless it exists; of several processes on a machine one does, the others wait.

    Args:
        uri: of a remote object.
        path: the local file.
        sha256: hex, that the content must have.

    Raises:
        ObjectMissing: there is no such object.
        ContentMismatch: its content does not match ``sha256``.
        StorageError: it could not be fetched after bounded retries; the received part is kept for the next try.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), poll_interval=LOCK_INTERVAL)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log(f"another process on this machine is fetching {uri}; waiting for it")
        lock.acquire()
    try:
        if not path.is_file():
            _fetch(uri, path, sha256)
    finally:
        lock.release()


def _info(uri: str) -> tuple[str, Mapping[str, Any]]:
    fs, inside = storage.filesystem(uri)
    info = retried(uri, lambda: remote.info(fs, inside))
    if info is None or info.get("type") == "directory":
        raise ObjectMissing(f"no object at {uri}")
    return remote.identity_of(info), info


def _fetch(uri: str, path: Path, sha256: str | None) -> None:
    rough = path.with_name(f".{path.name}.part")
    resumed = rough.is_file()
    if sha256 is None:
        _download_unpinned(uri, rough)
    elif (found := _download_and_hash(uri, rough, "sha256")) != sha256:
        rough.unlink()
        if resumed:  # the part of an earlier download may be damaged
            return _fetch(uri, path, sha256)
        raise ContentMismatch(uri, found)
    local.flush(rough)
    os.replace(rough, path)
    return None


def _download_unpinned(uri: str, rough: Path) -> None:
    """Download without a pin: check that the identity stays the same, and the MD5 if the ETag of S3 is one."""
    before = ""
    while True:
        identity = _info(uri)[0]
        md5 = _MD5.fullmatch(identity)
        found = _download_and_hash(uri, rough, "md5" if md5 else None)
        if _info(uri)[0] != identity:
            rough.unlink()
            raise StorageError(f"cannot fetch {uri}: it changed during the download; run again")
        if md5 is None or found in (md5[1], before):  # the same bytes twice: the ETag is no MD5
            return
        rough.unlink()
        if before:
            raise StorageError(
                f"cannot fetch {uri}: every try gives other bytes; check the connection, or pin its sha256"
            )
        before = found


def _download_and_hash(uri: str, rough: Path, algorithm: str | None) -> str:
    """Download the missing part of a file. Return its digest, or an empty text without an algorithm."""
    rough.parent.mkdir(parents=True, exist_ok=True)
    _download(uri, _info(uri)[1], rough)
    if algorithm is None:
        return ""
    with rough.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _download(uri: str, info: Mapping[str, Any], rough: Path) -> None:
    """Download an object to a file that may have the first bytes already."""
    size = info.get("size")
    if size is not None and int(size) <= PART:
        rough.write_bytes(storage.read_bytes(uri))  # whole, so its bytes are checked against the store's hash
        received(int(size))
        return
    try:
        if size is not None and info.get("partial", True):
            _append(uri, rough, int(size))
            return
    except _RangesIgnored:
        pass
    storage.download(uri, rough)
    received(rough.stat().st_size)


class _RangesIgnored(StorageError):
    """A web server sends the whole file when a range is requested."""


def _append(uri: str, rough: Path, size: int) -> None:
    fs, inside = storage.filesystem(uri)

    def part(start: int) -> bytes:
        end = min(start + PART, size)
        data = retried(uri, lambda: _part(fs, inside, start, end, size))
        if len(data) != end - start:
            raise StorageError(
                f"{uri}: expected {end - start} bytes, got {len(data)}; the object may have changed during the download"
            )
        received(len(data))  # at once: parts are written in order, and the first may be the slowest
        return data

    have = rough.stat().st_size if rough.is_file() else 0
    if have > size:
        rough.unlink()
        have = 0
    progress = _Progress(uri, size, have)
    with rough.open("ab") as file, ThreadPoolExecutor(PARALLEL_PARTS) as threads:
        while have < size:
            stop = min(have + PART * PARALLEL_PARTS, size)
            for data in threads.map(part, range(have, stop, PART)):
                file.write(data)
                progress.add(len(data))
            file.flush()
            os.fsync(file.fileno())  # after a power cut, a file may be longer than the bytes that reached the disk
            have = stop


def _part(fs: Any, inside: str, start: int, end: int, size: int) -> bytes:
    if "http" not in fs.protocol:
        return bytes(fs.cat_file(inside, start=start, end=end))
    try:
        with fs.open(inside, cache_type="none", size=size) as file:
            file.seek(start)
            return bytes(file.read(end - start))
    except ValueError as error:  # more bytes than asked for
        raise _RangesIgnored from error


class _Progress:
    """Progress lines of a large download."""

    def __init__(self, uri: str, size: int, have: int) -> None:
        self.uri, self.size, self.have, self.first = uri, size, have, have
        self._began = self._reported = time.monotonic()
        if size >= REPORTED_FROM:
            log(f"fetching {uri}: {size / 1e9:.2f} GB" + (f", {have / 1e9:.2f} already here" if have else ""))

    def add(self, count: int) -> None:
        self.have += count
        now = time.monotonic()
        if self.size >= REPORTED_FROM and (now - self._reported >= INTERVAL or self.have == self.size):
            self._reported = now
            rate = (self.have - self.first) / 1e6 / max(now - self._began, 1e-9)
            log(f"fetching {self.uri}: {self.have / 1e9:.2f} of {self.size / 1e9:.2f} GB, {rate:.0f} MB/s")
