"""What the export formats share: file names, size limits, records as JSON, writing a shard."""

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

# Role of a file to its column; pairs have the columns of InstructPix2Pix's training set, as has the instruction.
IMAGES: Final[Mapping[Layout, Mapping[str, str]]] = {
    "edited": {"edited": "image"},
    "pairs": {"source": "original_image", "mask": "mask_image", "edited": "edited_image"},
}
PROMPT: Final = "edit_prompt"


@dataclass(frozen=True)
class Shard:
    """A file of the dataset that holds rows."""

    name: str  # relative to the dataset's folder
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Limits:
    """When a shard is full. It is held in memory until then."""

    rows: int = 1000
    bytes: int = 256 << 20


class Writer(Protocol):
    """Writes rows in one format; the same rows give the same files."""

    def add(self, items: Sequence[Item]) -> None:
        """Add rows. Raises StorageError."""

    def close(self) -> list[Shard]:
        """Write the rows still in memory; return all shards."""


def record_columns(layout: Layout, columns: Sequence[str], taken: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a record, without the images; with pairs the prompt is the instruction.

    Args:
        layout: of the export.
        columns: to export.
        taken: names that the format itself needs.

    Raises:
        ConfigError: two columns would have the same name.
    """
    names = tuple(name for name in columns if not (layout == "pairs" and name == "prompt"))
    needed = {*taken, *IMAGES[layout].values(), *([PROMPT] if layout == "pairs" else [])}
    if clash := [name for name in names if name in needed]:
        raise ConfigError(f"column {clash[0]!r} has a name that the export needs; leave it out with --columns")
    return names


def write_shard(dest: str, name: str, data: bytes, rows: int, log: Callable[[str], None]) -> Shard:
    """Write one file of the dataset. Raises StorageError."""
    storage.write_bytes(storage.join(dest, name), data)
    log(f"{name}: {rows} rows, {len(data) / 1e6:.1f} MB")
    return Shard(name, rows, len(data), hashlib.sha256(data).hexdigest())


def file_name(key: str) -> str:
    """Return a file name for any key, different for every key.

    It has no dot, where WebDataset ends its keys, and no leading underscore: readers skip such names silently.
    """
    name = safe_name(key).replace(".", "%2E")
    return f"%5F{name[1:]}" if name.startswith("_") else name


def as_json(record: Mapping[str, Any]) -> bytes:
    """Return a record as one line of JSON: times in ISO format, bytes in base64, non-finite numbers as null."""
    return json.dumps(_finite(record), default=_jsonable, ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "replace"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, datetime.date | datetime.time):  # datetimes are dates
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
