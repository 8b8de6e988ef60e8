"""Rows to tar shards as the ``webdataset`` library reads them: ``KEY.png`` and ``KEY.json`` side by side."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence

from retouch.outputs.export.items import Item
from retouch.outputs.export.shard_writer import Limits, Piece, as_json, name_of, written


class WebDataset:
    """``shard-000000.tar`` and so on. Pairs: ``KEY.source.png``, ``KEY.mask.png``, ``KEY.edited.png``, ``KEY.txt``."""

    def __init__(self, dest: str, limits: Limits, say: Callable[[str], None]) -> None:
        self.dest, self.limits, self.say = dest, limits, say
        self._pieces: list[Piece] = []
        self._open()

    def add(self, items: Sequence[Item]) -> None:
        """Take some rows in; full shards are written."""
        for item in items:
            members = _members(item)
            size = sum(map(len, members.values()))
            if self._rows and (self._rows >= self.limits.rows or self._out.tell() + size > self.limits.bytes):
                self._write()
            for name, data in members.items():
                info = tarfile.TarInfo(name)  # without time and owner, so that the same rows give the same bytes
                info.size = len(data)
                self._tar.addfile(info, io.BytesIO(data))
            self._rows += 1

    def close(self) -> list[Piece]:
        """Write the last shard; all shards."""
        if self._rows:
            self._write()
        return self._pieces

    def _open(self) -> None:
        self._out, self._rows = io.BytesIO(), 0
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def _write(self) -> None:
        self._tar.close()
        name = f"shard-{len(self._pieces):06d}.tar"
        self._pieces.append(written(self.dest, name, self._out.getvalue(), self._rows, self.say))
        self._open()


def _members(item: Item) -> dict[str, bytes]:
    name = name_of(item.key)
    if len(item.files) == 1:
        files = {f"{name}.{item.extension}": item.files["edited"]}
    else:
        files = {f"{name}.{role}.{item.extension_of(role)}": data for role, data in item.files.items()}
        files[f"{name}.txt"] = item.prompt.encode("utf-8", "replace")
    return {**files, f"{name}.json": as_json(item.record)}
