"""Atomic writes of local files."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def temporary_name(path: Path) -> Iterator[Path]:
    """Yield a unique hidden name in the same folder; a file left under it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rough = path.with_name(f".{path.name[:80]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        yield rough
    finally:
        rough.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file whole, replacing an existing one, and flush it to the disk if ``durable``."""
    with temporary_name(path) as rough:
        rough.write_bytes(data)
        if durable:
            flush(rough)
        os.replace(rough, path)
    if durable:
        flush(path.parent)


def create(path: Path, data: bytes) -> bool:
    """Create a file whole unless one exists; of several concurrent callers, one gets True."""
    with temporary_name(path) as rough:
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
    """Create a file on a filesystem without hard links; a kill while writing leaves it incomplete."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True
