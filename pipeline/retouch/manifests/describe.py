"""What a manifest's columns mean, and what one holds: for people. Knows no editor."""

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
    "bbox": "x0, y0, x1, y1 in pixels of the upright image, x1 and y1 exclusive, in place of a mask; without both the "
    "whole image is edited",
    "landmarks": "x and y of 5 or 68 points of the face that the job's `fit: face` is about",
    "prompt": "what to paint; empty fills the region in from its surroundings, with editors that can",
    "exemplar": "an image of what to paint, as `image` is given",
    "source_prompt": "what the image shows: for `clip_direction`, and to fine-tune on",
    "checkpoint": "which tuned network: a role of the job's weights, or a file's address",
    "seed": "this row's own seed in the place of the job's; 0 or more",
    "params": "this row's own editor parameters over the job's",
}
OTHERS: Final = "yours: comes through to the results"
_WIDEST: Final = 48  # characters of a cell that is shown


@dataclass(frozen=True)
class Column:
    """One column of a manifest."""

    name: str
    type: str  # Arrow's
    filled: int  # rows in which it is not null
    distinct: int | None  # values; None where they cannot be compared
    meaning: str


@dataclass(frozen=True)
class Shown:
    """What a manifest holds."""

    rows: int
    files: tuple[str, ...]
    columns: tuple[Column, ...]
    renamed: Mapping[str, str]
    first: tuple[Mapping[str, str], ...]  # rows, each cell in a few characters

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.rows} rows in {len(self.files)} file{'s' * (len(self.files) != 1)}: {', '.join(self.files[:3])}"
        ]
        wide = max(len(column.name) for column in self.columns)
        for column in self.columns:
            some = "" if column.distinct is None else f", {column.distinct} different"
            lines.append(f"  {column.name:{wide}}  {column.filled} filled{some}; {column.type}; {column.meaning}")
        lines += [
            f"  {old} is called {new}, for results have a column of that name" for old, new in self.renamed.items()
        ]
        for number, cells in enumerate(self.first):
            lines.append(f"row {number}:")
            lines += [f"  {name:{wide}}  {text}" for name, text in cells.items()]
        return "\n".join(lines)

    def record(self) -> dict[str, Any]:
        """For programs."""
        columns = [vars(column) for column in self.columns]
        return {"rows": self.rows, "files": self.files, "columns": columns, "first": self.first}


def show(sources: str, first: int = 3) -> Shown:
    """Read a manifest as a run does, and say what it holds.

    Args:
        sources: Parquet file, folder or glob.
        first: how many rows to show.

    Raises:
        ManifestError: it cannot be read as one.
    """
    found = reader.read(sources, far=True)
    some = deferred_images.filled(found.table[: max(first, 1)])
    columns = tuple(_column(name, found.table[name], some.schema.field(name).type) for name in some.column_names)
    shown = tuple({name: _cell(cell) for name, cell in cells.items()} for cells in some[:first].to_pylist())
    return Shown(found.table.num_rows, found.files, columns, found.renamed, shown)


def columns_table() -> str:
    """All columns with a meaning, as a table in Markdown."""
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
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST // 2]}…{text[-_WIDEST // 2 :]}"
