"""Files of this machine, put in place whole or not at all. Knows nothing of retries or of other filesystems."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name of its own in the same folder, removed if it is still there in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rough = path.with_name(f".{path.name[:80]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield rough
    finally:
        rough.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the kernel bring a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Put a file in place whole, over one that is there, and on the disk; where not ``durable``, with the kernel."""
    with beside(path) as rough:
        rough.write_bytes(data)
        if durable:
            flush(rough)
        os.replace(rough, path)
    if durable:
        flush(path.parent)


def create(path: Path, data: bytes) -> bool:
    """Put a file in place whole unless one is there; of several that try at once, one gets True."""
    with beside(path) as rough:
        rough.write_bytes(data)
        flush(rough)
        try:
            os.link(rough, path)  # whole at once, unlike O_EXCL and then writing
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
                raise
            return _create_exclusively(path, data)
    flush(path.parent)
    return True


def _create_exclusively(path: Path, data: bytes) -> bool:
    """For filesystems without hard links: of several, one wins; a kill in between leaves the winner's file short."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive lock among the processes of this machine; it goes with the process that holds it.

    Args:
        path: of the lock's file, which stays.
        waiting: called once where another process has the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
