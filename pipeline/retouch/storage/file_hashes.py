"""SHA-256 of local files, each computed once: remembered by path, size and time of change. Knows no weights."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from retouch import storage
from retouch.storage import local


def cache_folder() -> Path:
    """Where fetched files and known hashes are kept: ``RETOUCH_CACHE``, else ``~/.cache/retouch``."""
    return Path(os.environ.get("RETOUCH_CACHE") or Path.home() / ".cache" / "retouch")


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a local file, computed unless it is remembered."""
    note = _note(path)
    try:
        return note.read_text()
    except OSError:
        digest = storage.sha256_of(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written to costs time, not the run
        local.replace(note, digest.encode())
    return digest


def record(path: Path) -> str:
    """Write a file's hash beside it, for ``recorded`` to hold the file against whatever becomes of it; returns it."""
    digest = file_sha256(path)
    local.replace(_beside(path), digest.encode())
    return digest


def recorded(path: Path) -> str | None:
    """What ``record`` wrote of a file; None where it was never called."""
    try:
        return _beside(path).read_text()
    except OSError:
        return None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _note(path: str | Path) -> Path:
    stat = os.stat(path)
    known = f"{Path(path).absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return cache_folder() / "sha256" / hashlib.sha256(known.encode()).hexdigest()
