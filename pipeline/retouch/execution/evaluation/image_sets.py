"""A finished set of images: which there are, which are not and why, and their pixels. Knows no metric.

A set is a run's output (``run.json`` and its results table), a Parquet manifest, or a folder or glob of image files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from retouch import storage
from retouch.errors import ConfigError, LoadError, ObjectMissing, RetouchError
from retouch.imaging import codec
from retouch.manifests import reader
from retouch.manifests.columns import image_source
from retouch.outputs import image_paths, results
from retouch.outputs.run_record import RUN_FILE, read_run
from retouch.schema import REQUEST_COLUMNS, Pixels

THREADS: Final = 8  # images fetched and decoded side by side while the network works
AHEAD: Final = 64  # images in memory at once: 200 MB of 1024 x 1024


@dataclass(frozen=True)
class Finished:
    """One image that there is, or should be."""

    key: str
    address: str  # full, or relative to its set's base; "" where ``data`` has the file's bytes
    identity: str  # what changes when the content does
    data: bytes | None = None
    request: Mapping[str, Any] | None = None  # the manifest's row, where it is asked for


@dataclass(frozen=True)
class ImageSet:
    """The images of one set, those of one file together."""

    base: str | None  # the output that addresses are relative to, of a run's
    rows: tuple[Finished, ...]
    missing: Mapping[str, str] = field(default_factory=dict)  # key to the reason why it has no image
    run: Mapping[str, Any] = field(default_factory=dict)  # run.json, of a run's output

    def shards(self, count: int) -> list[tuple[Finished, ...]]:
        """At most ``count`` parts of nearly equal size, in order; none is empty."""
        parts = np.array_split(np.arange(len(self.rows)), max(1, min(count, len(self.rows))))
        return [self.rows[part[0] : part[-1] + 1] for part in parts if len(part)]


def read_set(source: str, statuses: Sequence[str] = ("success",)) -> ImageSet:
    """Look a set up; no image is read.

    Args:
        source: a run's output, a ``.parquet`` manifest, a folder or a glob of image files.
        statuses: of a run, the rows whose images count.

    Raises:
        ConfigError: there is no image.
        ManifestError: the manifest cannot be read as one.
    """
    path = storage.local_path(source)
    source = source if path is None else str(path)  # workers have other working directories
    if storage.exists(storage.join(source, RUN_FILE)):
        found = _run(source, statuses)
    elif source.endswith(".parquet"):
        found = _manifest(source)
    else:
        found = _files(source)
    if not found.rows:
        why = f"; {len(found.missing)} rows have none, {_first(found.missing)}" if found.missing else ""
        raise ConfigError(f"no image at {source}{why}; give a run's output, a manifest, a folder or a glob")
    return found


def with_requests(found: ImageSet, sources: str | Sequence[str]) -> ImageSet:
    """The set with each image's manifest row; a row without an image is missing there.

    A run knows itself what it was asked for, so of its output no more rows are missing.

    Raises:
        ManifestError: the manifest cannot be read as one.
    """
    table = reader.read(sources).table
    requests = table.select([name for name in REQUEST_COLUMNS if name in table.column_names]).to_pylist()
    by_key = {request["key"]: request for request in requests}
    known = {row.key for row in found.rows} | found.missing.keys()
    absent = {} if found.run else {key: "no image of this key" for key in by_key if key not in known}
    rows = tuple(replace(row, request=by_key.get(row.key)) for row in found.rows)
    return replace(found, rows=rows, missing={**found.missing, **absent})


def pixels(base: str | None, rows: Sequence[Finished]) -> Iterator[tuple[Finished, Pixels | str]]:
    """Each image decoded, [H,W,3] uint8, or the reason why it cannot be; read ahead while the caller works."""
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, len(rows), AHEAD):
            files: dict[str, list[Finished]] = {}
            for row in rows[start : start + AHEAD]:
                file = row.key if base is None else image_paths.file_of(row.address)
                files.setdefault(file, []).append(row)
            for group in threads.map(lambda group: _decoded(base, group), files.values()):
                yield from group


def _decoded(base: str | None, rows: Sequence[Finished]) -> list[tuple[Finished, Pixels | str]]:
    """The images that rest in one file."""
    try:
        if base is None:
            data: Mapping[str, bytes | None] = {
                row.address: storage.read_bytes(row.address) if row.data is None else row.data for row in rows
            }
        else:
            data = image_paths.read_images(base, [row.address for row in rows])
    except RetouchError as error:
        return [(row, f"{type(error).__name__}: {error}") for row in rows]
    return [(row, _pixels_or_reason(row, data[row.address])) for row in rows]


def _pixels_or_reason(row: Finished, data: bytes | None) -> Pixels | str:
    try:
        if data is None:
            raise ObjectMissing(f"no image at {row.address}")
        if row.identity.startswith("sha256:") and row.identity != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise LoadError(f"{row.address} is not the image that was recorded")
        return codec.decode_image(data).pixels
    except Exception as error:  # whatever a decoder raises is this row's
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _run(output: str, statuses: Sequence[str]) -> ImageSet:
    table = results.read(output, ["key", "status", "output", "sha256", "error_message"])
    rows, missing = [], {}
    for row in table.to_pylist():
        if row["status"] in statuses and row["output"]:
            rows.append(Finished(row["key"], row["output"], f"sha256:{row['sha256']}"))
        else:
            missing[row["key"]] = f"{row['status']}: {row['error_message'] or 'not among the statuses that count'}"
    answered = set(table["key"].to_pylist())
    missing |= {
        key: "not answered yet" for key in results.read_requests(output)["key"].to_pylist() if key not in answered
    }
    # Those of one tar shard together, so that it is fetched by one part.
    rows.sort(key=lambda row: (image_paths.file_of(row.address), row.key))
    return ImageSet(output, tuple(rows), missing, read_run(output))


def _manifest(source: str) -> ImageSet:
    table = reader.read(source).table
    cells = [image_source(cell) for cell in table["image"].to_pylist()]
    identities = storage.identities(cell for cell in cells if isinstance(cell, str) and cell)
    rows, missing = [], {}
    for key, cell in zip(table["key"].to_pylist(), cells, strict=True):
        if isinstance(cell, bytes):
            rows.append(Finished(key, "", f"sha256:{hashlib.sha256(cell).hexdigest()}", cell))
        elif cell and (identity := identities[cell]) is not None:
            rows.append(Finished(key, cell, identity))
        else:
            missing[key] = f"no image at {cell}" if cell else "the image cell is empty"
    return ImageSet(None, tuple(rows), missing)


def _files(source: str) -> ImageSet:
    listed = storage.list_files(source) if storage.is_folder(source) else storage.glob(source)
    found = sorted(file for file in listed if file.lower().endswith(codec.SUFFIXES))
    folder = source if storage.is_folder(source) else _before_signs(source)
    # A key is the path inside the folder without its ending, so that it can be found in a manifest.
    keys = [file.removeprefix(folder).lstrip("/").rpartition(".")[0] for file in found]
    twice = [key for key, times in Counter(keys).items() if times > 1]
    if twice:
        raise ConfigError(f"{source} has {len(twice)} images under two endings, first {twice[0]}; keep one of each")
    identities = storage.identities(found)
    return ImageSet(None, tuple(Finished(k, f, identities[f] or "") for k, f in zip(keys, found, strict=True)))


def _before_signs(pattern: str) -> str:
    """The folder of a glob that no sign stands in."""
    plain = pattern[: min((pattern.index(sign) for sign in "*?[" if sign in pattern), default=len(pattern))]
    return plain.rpartition("/")[0]


def _first(missing: Mapping[str, str]) -> str:
    return next((f"first {key}: {reason}" for key, reason in missing.items()), "")
