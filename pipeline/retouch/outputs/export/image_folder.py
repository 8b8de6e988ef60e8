"""Exports rows as image files with one ``metadata.jsonl``, the layout of Hugging Face's ``imagefolder``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from retouch import storage
from retouch.outputs.export.items import Item, Layout
from retouch.outputs.export.shard_writer import IMAGES, PROMPT, Shard, as_json, file_name, record_columns, write_shard

METADATA: Final = "metadata.jsonl"
THREADS: Final = 16  # files written at the same time
_LOG_EVERY: Final = 1000  # rows


class ImageFolder:
    """Writes ``images/ab/KEY.png``, with pairs ``KEY.source.png`` and so on, into 256 folders by a hash of the key."""

    def __init__(self, dest: str, log: Callable[[str], None], layout: Layout, columns: Sequence[str]) -> None:
        self.dest, self.log = dest, log
        self.fields = _fields(layout)
        self.columns = record_columns(layout, columns, list(self.fields.values()))
        self._lines: list[bytes] = []

    def add(self, items: Sequence[Item]) -> None:
        """Write some rows' images."""
        files: dict[str, bytes] = {}
        for item in items:
            names = _names(item)
            files |= {names[role]: data for role, data in item.files.items()}
            self._lines.append(as_json(self._line(item, names)))
            if len(self._lines) % _LOG_EVERY == 0:
                self.log(f"{len(self._lines)} rows")
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda name: storage.write_bytes(storage.join(self.dest, name), files[name]), files))

    def close(self) -> list[Shard]:
        """Write the metadata, which lists every image."""
        data = b"".join(line + b"\n" for line in self._lines)
        return [write_shard(self.dest, METADATA, data, len(self._lines), self.log)]

    def _line(self, item: Item, names: Mapping[str, str]) -> dict[str, Any]:
        line: dict[str, Any] = {self.fields[role]: name for role, name in names.items()}
        if len(names) > 1:
            line[PROMPT] = item.prompt
        return {**line, **{name: item.record[name] for name in self.columns}}


def _fields(layout: Layout) -> dict[str, str]:
    """Return role of a file to the metadata field with its name."""
    if layout == "edited":
        return {"edited": "file_name"}
    return {role: f"{column}_file_name" for role, column in IMAGES[layout].items()}


def _names(item: Item) -> dict[str, str]:
    folder = hashlib.sha256(item.key.encode("utf-8", "surrogatepass")).hexdigest()[:2]
    stem = f"images/{folder}/{file_name(item.key)}"
    if len(item.files) == 1:
        return {"edited": f"{stem}.{item.extension}"}
    return {role: f"{stem}.{role}.{item.extension_of(role)}" for role in item.files}
