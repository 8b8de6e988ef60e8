"""SHA-256 of local files, computed once: cached by path, size and modification time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from retouch import storage
from retouch.storage import local


def cache_folder() -> Path:
    """Return the folder of fetched files and known hashes: ``RETOUCH_CACHE``, else ``~/.cache/retouch``."""
    return Path(os.environ.get("RETOUCH_CACHE") or Path.home() / ".cache" / "retouch")


def file_sha256(path: str | Path) -> str:
    """Return the hex sha256 of a local file, computed unless it is cached."""
    cached = _cache_file(path)
    try:
        return cached.read_text()
    except OSError:
        digest = storage.sha256_of(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, not the run
        local.replace(cached, digest.encode())
    return digest


def record(path: Path) -> str:
    """Write a file's hash to its sidecar, which ``recorded`` reads when the file is verified. Return the hash."""
    digest = file_sha256(path)
    local.replace(_sidecar(path), digest.encode())
    return digest


def recorded(path: Path) -> str | None:
    """Return the hash that ``record`` wrote for a file; None if it has none."""
    try:
        return _sidecar(path).read_text()
    except OSError:
        return None


def _sidecar(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _cache_file(path: str | Path) -> Path:
    stat = os.stat(path)
    known = f"{Path(path).absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    return cache_folder() / "sha256" / hashlib.sha256(known.encode()).hexdigest()
