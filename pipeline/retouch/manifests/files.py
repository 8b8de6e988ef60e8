"""Find a manifest's Parquet files: a file, a folder or a glob, with the columns that folder names hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa

from retouch import storage

NULL: Final = "__HIVE_DEFAULT_PARTITION__"  # Hive's name for a missing value
_WILDCARDS: Final = re.compile(r"[*?\[]")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})")


@dataclass(frozen=True)
class ManifestFile:
    """A Parquet file of a manifest."""

    address: str
    partitions: Mapping[str, str | None] = field(default_factory=dict)  # of folders called ``name=value``


def find(source: str) -> list[ManifestFile]:
    """Return the files of one source, sorted; none if there are none.

    As Spark and pyarrow do, leave out files and folders whose names begin with ``.`` or ``_`` (``_temporary``,
    ``.ipynb_checkpoints``), as well as Synology's ``@eaDir``, unless the source itself names them; and take folders
    called ``name=value`` below a folder or a glob's fixed part as columns.

    Args:
        source: Parquet file, folder or glob on any fsspec URL.

    Raises:
        StorageError: the store did not answer after bounded retries.
    """
    if storage.is_folder(source):
        root = source.rstrip("/")
        return _below(root, storage.list_files(source, ".parquet"), ())
    if _WILDCARDS.search(source) and not storage.exists(source):
        parts = source.split("/")
        fixed = next(place for place, part in enumerate(parts) if _WILDCARDS.search(part))
        root = "/".join(parts[:fixed])
        return _below(root, storage.glob(source), parts[fixed:])
    return [ManifestFile(source)]


def with_partitions(table: pa.Table, partitions: Mapping[str, Any]) -> pa.Table:
    """Return the table with a file's partitions as columns; a column of the file itself comes first."""
    for name, value in partitions.items():
        if name not in table.column_names:
            kind = pa.int64() if isinstance(value, int) else pa.string()
            table = table.append_column(name, pa.repeat(pa.scalar(value, kind), table.num_rows))
    return table


def typed(files: Iterable[ManifestFile]) -> list[dict[str, Any]]:
    """Return each file's partitions: int if all values of a name are whole numbers, else text."""
    files = list(files)
    texts: dict[str, list[str]] = {}
    for file in files:
        for name, value in file.partitions.items():
            texts.setdefault(name, []).extend([] if value is None else [value])
    numbers = {name for name, values in texts.items() if values and all(map(_NUMBER.fullmatch, values))}
    return [
        {
            name: int(value) if value is not None and name in numbers else value
            for name, value in file.partitions.items()
        }
        for file in files
    ]


def _below(root: str, addresses: Sequence[str], named: Sequence[str]) -> list[ManifestFile]:
    found = []
    for address in addresses:
        parts = address[len(root) :].strip("/").split("/") if address.startswith(root) else address.split("/")
        if not any(_is_hidden(part) and part not in named for part in parts):
            found.append(ManifestFile(address, dict(_partition(part) for part in parts[:-1] if "=" in part)))
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name) or name == "@eaDir"


def _partition(folder: str) -> tuple[str, str | None]:
    name, _, value = folder.partition("=")
    return unquote(name), None if value == NULL else unquote(value)
