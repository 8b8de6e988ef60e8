"""Where edited images are written: one file each, or one tar shard per block.

A sink is made for each block as ``Sink(output, rows)``, with the block's ``(key, fingerprint)`` pairs, and is called
from several threads. Writing a block again gives the same paths and bytes, so that a retried task overwrites its own
files. Plug-ins register under the entry-point group ``retouch.sinks``.
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
    """Stores the images of one block."""

    def __init__(self, output: str, rows: Sequence[tuple[str, str]] = ()) -> None: ...

    def put(self, key: str, fingerprint: str, data: bytes, extension: str) -> str:
        """Store an image; return its path in the output, as ``image_paths.read_image`` takes it.

        Raises:
            StorageError: it cannot be written.
        """

    def close(self) -> None:
        """Return when every image is durable; the block's result rows are written after this."""


class FileSink:
    """Writes ``images/ab/KEY-FINGERPRINT.png``, which is durable when ``put`` returns."""

    def __init__(self, output: str, rows: Sequence[tuple[str, str]] = ()) -> None:
        self.output = output

    def put(self, key: str, fingerprint: str, data: bytes, extension: str) -> str:
        """Write the file; the same key and fingerprint overwrite it."""
        path = image_path(key, fingerprint, extension)
        storage.write_bytes(storage.join(self.output, path), data)
        return path

    def close(self) -> None:
        """Do nothing: every file is durable already."""


class TarSink:
    """Writes a tar file per block, ``images/shard-HASH.tar`` by a hash of its rows; ``close`` writes it from memory."""

    def __init__(self, output: str, rows: Sequence[tuple[str, str]] = ()) -> None:
        if not rows:
            raise ConfigError("a tar sink names its shard by the block's rows; make it as TarSink(output, rows)")
        self.output = output
        self.shard = f"{IMAGES}/shard-{rows_digest(rows)}.tar"
        self._members: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, fingerprint: str, data: bytes, extension: str) -> str:
        """Add an image to the shard, which is written by ``close``."""
        name = image_path(key, fingerprint, extension).rpartition("/")[2]
        with self._lock:
            self._members[name] = data
        return f"{self.shard}{MEMBER}{name}"

    def close(self) -> None:
        """Write the shard: members sorted and without times, so that the same block gives the same bytes."""
        if not self._members:
            return
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in sorted(self._members.items()):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        storage.write_bytes(storage.join(self.output, self.shard), out.getvalue())
