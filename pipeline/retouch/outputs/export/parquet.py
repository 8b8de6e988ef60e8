"""Exports rows as Parquet files that contain the images, as Hugging Face's ``datasets`` decodes them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from retouch.outputs.export.items import Item, Layout
from retouch.outputs.export.shard_writer import IMAGES, PROMPT, Limits, Shard, file_name, record_columns, write_shard

IMAGE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # the storage type of the feature ``Image``
GROUP: Final = 100  # rows per row group, at most: what a reader of one row has to fetch
GROUP_BYTES: Final = 32 << 20


class Parquet:
    """Writes ``data/train-00000.parquet`` and so on."""

    def __init__(
        self, dest: str, limits: Limits, log: Callable[[str], None], layout: Layout, columns: pa.Schema
    ) -> None:
        self.dest, self.limits, self.log, self.layout = dest, limits, log, layout
        self.schema = schema_of(layout, columns)
        self._shards: list[Shard] = []
        self._open()

    def add(self, items: Sequence[Item]) -> None:
        """Add rows; write files that are full."""
        for item in items:
            size = sum(map(len, item.files.values()))
            full = self._rows >= self.limits.rows or self._out.tell() + self._waiting_bytes + size > self.limits.bytes
            if self._rows and full:
                self._write()
            self._waiting.append(self._row(item))
            self._waiting_bytes += size
            self._rows += 1
            if len(self._waiting) >= GROUP or self._waiting_bytes >= GROUP_BYTES:
                self._write_group()

    def close(self) -> list[Shard]:
        """Write the last file; return all files."""
        if self._rows:
            self._write()
        self._file.close()
        return self._shards

    def _row(self, item: Item) -> dict[str, object]:
        name = file_name(item.key)
        row: dict[str, object] = {
            column: {"bytes": item.files[role], "path": f"{name}.{item.extension_of(role)}"}
            for role, column in IMAGES[self.layout].items()
        }
        if self.layout == "pairs":
            row[PROMPT] = item.prompt
        return {**row, **{name: value for name, value in item.record.items() if name in self.schema.names}}

    def _open(self) -> None:
        self._out, self._rows = io.BytesIO(), 0
        self._waiting: list[dict[str, object]] = []
        self._waiting_bytes = 0
        pictures = [f"{column}.bytes" for column in IMAGES[self.layout].values()]
        texts = [name for name in self.schema.names if pa.types.is_string(self.schema.field(name).type)]
        self._file = pq.ParquetWriter(
            self._out,
            self.schema,
            compression="zstd",
            use_dictionary=texts,  # image files neither repeat nor compress
            write_statistics=[name for name in self.schema.names if name not in pictures],
            write_page_index=True,
        )

    def _write_group(self) -> None:
        if self._waiting:
            self._file.write_table(pa.Table.from_pylist(self._waiting, self.schema))
            self._waiting, self._waiting_bytes = [], 0

    def _write(self) -> None:
        self._write_group()
        self._file.close()
        name = f"data/train-{len(self._shards):05d}.parquet"
        self._shards.append(write_shard(self.dest, name, self._out.getvalue(), self._rows, self.log))
        self._open()


def schema_of(layout: Layout, columns: pa.Schema) -> pa.Schema:
    """Return the schema: image columns, then the record's, with metadata that marks images for ``datasets``.

    Raises:
        ConfigError: a column has the name of an image column.
    """
    names = record_columns(layout, columns.names, ())
    pictures = IMAGES[layout].values()
    fields = [pa.field(name, IMAGE) for name in pictures]
    if layout == "pairs":
        fields.append(pa.field(PROMPT, pa.string()))
    features = {"info": {"features": {name: {"_type": "Image"} for name in pictures}}}
    metadata = {"huggingface": json.dumps(features)}
    return pa.schema([*fields, *(columns.field(name) for name in names)], metadata=metadata)
