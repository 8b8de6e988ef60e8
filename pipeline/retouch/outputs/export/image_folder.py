"""Rows to plain image files and one ``metadata.jsonl``, as Hugging Face's ``imagefolder`` reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from retouch import storage
from retouch.outputs.export.items import Item, Layout
from retouch.outputs.export.shard_writer import IMAGES, PROMPT, Piece, as_json, name_of, record_columns, written

METADATA: Final = "metadata.jsonl"
THREADS: Final = 16  # files put down side by side
_SAID_EVERY: Final = 1000  # rows


class Folder:
    """``images/ab/KEY.png``, in pairs ``KEY.source.png`` and so on, spread over 256 folders by a hash of the key."""

    def __init__(self, dest: str, say: Callable[[str], None], layout: Layout, columns: Sequence[str]) -> None:
        self.dest, self.say = dest, say
        self.fields = _fields(layout)
        self.columns = record_columns(layout, columns, list(self.fields.values()))
        self._lines: list[bytes] = []

    def add(self, items: Sequence[Item]) -> None:
        """Put some rows' images down."""
        files: dict[str, bytes] = {}
        for item in items:
            names = _names(item)
            files |= {names[role]: data for role, data in item.files.items()}
            self._lines.append(as_json(self._line(item, names)))
            if len(self._lines) % _SAID_EVERY == 0:
                self.say(f"{len(self._lines)} rows")
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(lambda name: storage.write_bytes(storage.join(self.dest, name), files[name]), files))

    def close(self) -> list[Piece]:
        """Write the metadata, which names every image."""
        data = b"".join(line + b"\n" for line in self._lines)
        return [written(self.dest, METADATA, data, len(self._lines), self.say)]

    def _line(self, item: Item, names: Mapping[str, str]) -> dict[str, Any]:
        line: dict[str, Any] = {self.fields[role]: name for role, name in names.items()}
        if len(names) > 1:
            line[PROMPT] = item.prompt
        return {**line, **{name: item.record[name] for name in self.columns}}


def _fields(layout: Layout) -> dict[str, str]:
    """Role of a file to the field that names it."""
    if layout == "edited":
        return {"edited": "file_name"}
    return {role: f"{column}_file_name" for role, column in IMAGES[layout].items()}


def _names(item: Item) -> dict[str, str]:
    place = f"images/{hashlib.sha256(item.key.encode('utf-8', 'surrogatepass')).hexdigest()[:2]}/{name_of(item.key)}"
    if len(item.files) == 1:
        return {"edited": f"{place}.{item.extension}"}
    return {role: f"{place}.{role}.{item.extension_of(role)}" for role in item.files}
