"""Files of an exported dataset: their names, how large they get, records as JSON. Knows no format."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Protocol

from retouch import storage
from retouch.errors import ConfigError
from retouch.outputs.export.items import Item, Layout
from retouch.outputs.image_paths import safe_name

# Role of a file to its column, pairs in the words of InstructPix2Pix's training set; and the column of the instruction.
IMAGES: Final[Mapping[Layout, Mapping[str, str]]] = {
    "edited": {"edited": "image"},
    "pairs": {"source": "original_image", "mask": "mask_image", "edited": "edited_image"},
}
PROMPT: Final = "edit_prompt"


@dataclass(frozen=True)
class Piece:
    """One file of the dataset that holds rows."""

    name: str  # relative to the dataset's folder
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Limits:
    """When a file of many rows is full. It is held in memory until then."""

    rows: int = 1000
    bytes: int = 256 << 20


class Writer(Protocol):
    """Writes rows in one format; the same rows give the same files."""

    def add(self, items: Sequence[Item]) -> None:
        """Take some rows in. Raises StorageError."""

    def close(self) -> list[Piece]:
        """Write what is held back; all files that hold rows."""


def record_columns(layout: Layout, columns: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """The columns of a record beside those of the images: in pairs the prompt is the instruction.

    Args:
        layout: of the export.
        columns: that leave.
        taken: names that the format itself needs.

    Raises:
        ConfigError: two columns would have one name.
    """
    names = tuple(name for name in columns if not (layout == "pairs" and name == "prompt"))
    needed = {*taken, *IMAGES[layout].values(), *([PROMPT] if layout == "pairs" else [])}
    if clash := [name for name in names if name in needed]:
        raise ConfigError(f"column {clash[0]!r} has a name that the export needs; leave it out with --columns")
    return names


def written(dest: str, name: str, data: bytes, rows: int, say: Callable[[str], None]) -> Piece:
    """Put one file of the dataset in place. Raises StorageError."""
    storage.write_bytes(storage.join(dest, name), data)
    say(f"{name}: {rows} rows, {len(data) / 1e6:.1f} MB")
    return Piece(name, rows, len(data), hashlib.sha256(data).hexdigest())


def name_of(key: str) -> str:
    """A file name of any key without a dot, where WebDataset's keys end; never two keys alike.

    Nor does one begin with an underscore: readers of shards skip such names without a word.
    """
    name = safe_name(key).replace(".", "%2E")
    return f"%5F{name[1:]}" if name.startswith("_") else name


def as_json(record: Mapping[str, Any]) -> bytes:
    """A record as one line: times in ISO's form, bytes in base64; numbers that are not finite are null."""
    return json.dumps(_finite(record), default=_said, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _said(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):  # datetimes are dates
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
