"""Exports rows as tar shards for the ``webdataset`` library: ``KEY.png`` next to ``KEY.json``."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence

from retouch.outputs.export.items import Item
from retouch.outputs.export.shard_writer import Limits, Shard, as_json, file_name, write_shard


class WebDataset:
    """Writes ``shard-000000.tar`` etc. Pairs: ``KEY.source.png``, ``KEY.mask.png``, ``KEY.edited.png``, ``KEY.txt``."""

    def __init__(self, dest: str, limits: Limits, log: Callable[[str], None]) -> None:
        self.dest, self.limits, self.log = dest, limits, log
        self._shards: list[Shard] = []
        self._open()

    def add(self, items: Sequence[Item]) -> None:
        """Add rows; write shards that are full."""
        for item in items:
            members = _members(item)
            size = sum(map(len, members.values()))
            if self._rows and (self._rows >= self.limits.rows or self._out.tell() + size > self.limits.bytes):
                self._write()
            for name, data in members.items():
                info = tarfile.TarInfo(name)  # has no time and owner, so that the same rows give the same bytes
                info.size = len(data)
                self._tar.addfile(info, io.BytesIO(data))
            self._rows += 1

    def close(self) -> list[Shard]:
        """Write the last shard; return all shards."""
        if self._rows:
            self._write()
        return self._shards

    def _open(self) -> None:
        self._out, self._rows = io.BytesIO(), 0
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def _write(self) -> None:
        self._tar.close()
        name = f"shard-{len(self._shards):06d}.tar"
        self._shards.append(write_shard(self.dest, name, self._out.getvalue(), self._rows, self.log))
        self._open()


def _members(item: Item) -> dict[str, bytes]:
    name = file_name(item.key)
    if len(item.files) == 1:
        files = {f"{name}.{item.extension}": item.files["edited"]}
    else:
        files = {f"{name}.{role}.{item.extension_of(role)}": data for role, data in item.files.items()}
        files[f"{name}.txt"] = item.prompt.encode("utf-8", "replace")
    return {**files, f"{name}.json": as_json(item.record)}
