"""Describe a manifest for people: the meaning of its columns, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from retouch.jobs.reference import row
from retouch.manifests import deferred_images, reader
from retouch.manifests.columns import expected

MEANINGS: Final[Mapping[str, str]] = {
    "key": "unique name of the row and of its image's file; made from the row's content where the column is absent",
    "image": "the image: an address (relative ones start at the manifest's folder), a file's bytes, or both",
    "mask": "the same of the mask: white (or opaque, where the alpha channel varies) is edited, at half; any size",
    "bbox": "x0, y0, x1, y1 in pixels of the upright image, x1 and y1 exclusive, instead of a mask; without either the "
    "whole image is edited",
    "landmarks": "x and y of 5 or 68 points of the face that the job's `fit: face` is about",
    "prompt": "what to paint; empty fills the region in from its surroundings, with editors that can",
    "negative_prompt": "what not to paint, with editors that read it; instead of the job's own parameter",
    "exemplar": "an image of what to paint, as `image` is given",
    "control": "an image that guides the structure (edges, depth, pose), for a ControlNet; as large as the image",
    "source_prompt": "what the image shows: for `clip_direction`, and to fine-tune on",
    "checkpoint": "which tuned network: a role of the job's weights, or a file's address",
    "seed": "this row's own seed in the place of the job's; 0 or more",
    "params": "this row's own editor parameters over the job's",
}
OTHERS: Final = "yours: comes through to the results"
_CELL_WIDTH: Final = 48  # characters


@dataclass(frozen=True)
class Column:
    """One column of a manifest."""

    name: str
    type: str  # Arrow type
    filled: int  # rows in which it is not null
    distinct: int | None  # number of different values; None if they cannot be compared
    meaning: str


@dataclass(frozen=True)
class ManifestDescription:
    """Summary of a manifest: its columns and its first rows."""

    rows: int
    files: tuple[str, ...]
    columns: tuple[Column, ...]
    renamed: Mapping[str, str]
    first: tuple[Mapping[str, str], ...]  # first rows, cells shortened

    def text(self) -> str:
        """Return the summary as text for people."""
        lines = [
            f"{self.rows} rows in {len(self.files)} file{'s' * (len(self.files) != 1)}: {', '.join(self.files[:3])}"
        ]
        wide = max(len(column.name) for column in self.columns)
        for column in self.columns:
            distinct = "" if column.distinct is None else f", {column.distinct} different"
            lines.append(f"  {column.name:{wide}}  {column.filled} filled{distinct}; {column.type}; {column.meaning}")
        lines += [
            f"  {old} is renamed to {new}: results have a column of that name" for old, new in self.renamed.items()
        ]
        for number, cells in enumerate(self.first):
            lines.append(f"row {number}:")
            lines += [f"  {name:{wide}}  {text}" for name, text in cells.items()]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """Return the summary as JSON values for programs."""
        columns = [vars(column) for column in self.columns]
        return {"rows": self.rows, "files": self.files, "columns": columns, "first": self.first}


def describe_manifest(sources: str, first: int = 3) -> ManifestDescription:
    """Return a summary of a manifest, read as a run reads it.

    Args:
        sources: Parquet file, folder or glob.
        first: how many rows to show.

    Raises:
        ManifestError: it cannot be read as a manifest.
    """
    found = reader.read(sources, defer_images=True)
    rows = deferred_images.load_deferred(found.table[: max(first, 1)])
    columns = tuple(_column(name, found.table[name], rows.schema.field(name).type) for name in rows.column_names)
    shown = tuple({name: _cell(cell) for name, cell in cells.items()} for cells in rows[:first].to_pylist())
    return ManifestDescription(found.table.num_rows, found.files, columns, found.renamed, shown)


def columns_table() -> str:
    """Return all columns with a meaning as a Markdown table."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    lines += [row((f"`{name}`", expected(name), meaning)) for name, meaning in MEANINGS.items()]
    return "\n".join([*lines, row(("any other", "any", OTHERS))])


def _column(name: str, column: pa.ChunkedArray, type_: pa.DataType) -> Column:
    try:
        distinct = len(column.drop_null().unique())
    except pa.ArrowNotImplementedError:  # structs and lists
        distinct = None
    kind = "struct of bytes and path" if pa.types.is_struct(type_) else str(type_)
    return Column(name, kind, len(column) - column.null_count, distinct, MEANINGS.get(name, OTHERS))


def _cell(cell: Any) -> str:
    if isinstance(cell, Mapping) and {"bytes", "path"} == set(cell):
        inside = "" if cell["bytes"] is None else f" ({len(cell['bytes'])} bytes inside)"
        return f"{cell['path'] or 'no name'}{inside}"
    if isinstance(cell, bytes):
        return f"{len(cell)} bytes"
    text = " ".join(str("" if cell is None else cell).split())
    return text if len(text) <= _CELL_WIDTH else f"{text[: _CELL_WIDTH // 2]}…{text[-_CELL_WIDTH // 2 :]}"
