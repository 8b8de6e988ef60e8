"""Where finished images rest: one file each, or tar shards. Knows neither pixels nor results.

A sink is made once for each block that is written, ``Sink(output, rows)`` with the ``(key, fingerprint)`` pairs of the
block, and called from several threads. Whatever the sink, writing the same block again gives the same addresses and
bytes, so that a retried task overwrites itself. A plug-in registers under the entry-point group ``retouch.sinks``.
"""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Sequence
from typing import Protocol

from retouch import storage
from retouch.errors import ConfigError
from retouch.outputs.image_paths import IMAGES, MEMBER, image_path, rows_digest


class Sink(Protocol):
    """Keeps the images of one block of rows."""

    def __init__(self, output: str, rows: Sequence[tuple[str, str]] = ()) -> None: ...

    def put(self, key: str, fingerprint: str, data: bytes, extension: str) -> str:
        """Keep an image and say where, relative to the output: what ``addresses.fetch`` takes. Raises StorageError."""

    def close(self) -> None:
        """Return once everything that was put is durable; the block's results are written after this."""


class FileSink:
    """``images/ab/KEY-FINGERPRINT.png``, durable as soon as ``put`` returns."""

    def __init__(self, output: str, rows: Sequence[tuple[str, str]] = ()) -> None:
        self.output = output

    def put(self, key: str, fingerprint: str, data: bytes, extension: str) -> str:
        """Write the file; the same key and fingerprint overwrite it."""
        path = image_path(key, fingerprint, extension)
        storage.write_bytes(storage.join(self.output, path), data)
        return path

    def close(self) -> None:
        """Nothing is held back."""


class TarSink:
    """``images/shard-HASH.tar`` for each block, HASH of its rows; images are held in memory until ``close``."""

    def __init__(self, output: str, rows: Sequence[tuple[str, str]] = ()) -> None:
        if not rows:
            raise ConfigError("a tar sink names its shard by the block's rows; make it as TarSink(output, rows)")
        self.output = output
        self.shard = f"{IMAGES}/shard-{rows_digest(rows)}.tar"
        self._members: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, fingerprint: str, data: bytes, extension: str) -> str:
        """Take the image in; it rests only after ``close``."""
        name = image_path(key, fingerprint, extension).rpartition("/")[2]
        with self._lock:
            self._members[name] = data
        return f"{self.shard}{MEMBER}{name}"

    def close(self) -> None:
        """Write the shard, members sorted and without times, so that the same block gives the same bytes."""
        if not self._members:
            return
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in sorted(self._members.items()):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        storage.write_bytes(storage.join(self.output, self.shard), out.getvalue())
