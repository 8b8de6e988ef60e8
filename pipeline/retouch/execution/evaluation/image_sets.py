"""Sets of images to evaluate: which images exist, which are missing and why, and their pixels.

A set is a run's output (``run.json`` and its results table), a Parquet manifest, or a folder or glob of image files.
"""

from __future__ import annotations

import hashlib
import re
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

THREADS: Final = 8  # images fetched and decoded in parallel while the network computes
PREFETCH: Final = 64  # images in memory at once: 200 MB of 1024 x 1024


@dataclass(frozen=True)
class ImageRef:
    """One image of a set, by its address."""

    key: str
    address: str  # absolute, or relative to the set's base; "" if ``data`` has the file's bytes
    identity: str  # changes if the content does
    data: bytes | None = None
    pixels: int = 0  # width x height, if a run recorded it
    request: Mapping[str, Any] | None = None  # the manifest's row, if ``with_requests`` added it


@dataclass(frozen=True)
class ImageSet:
    """A set of images; those in one file are adjacent."""

    base: str | None  # a run's output, to which addresses are relative; else None
    rows: tuple[ImageRef, ...]
    missing: Mapping[str, str] = field(default_factory=dict)  # key to the reason why its image is missing
    run: Mapping[str, Any] = field(default_factory=dict)  # run.json, if the set is a run's output

    def shards(self, count: int) -> list[tuple[ImageRef, ...]]:
        """Return at most ``count`` parts of nearly equal size, in order, none of them empty."""
        parts = np.array_split(np.arange(len(self.rows)), max(1, min(count, len(self.rows))))
        return [self.rows[part[0] : part[-1] + 1] for part in parts if len(part)]


def read_set(source: str, statuses: Sequence[str] = ("success",)) -> ImageSet:
    """Return the images of a set, without reading them.

    Args:
        source: a run's output, a ``.parquet`` manifest, a folder or a glob of image files.
        statuses: of a run, rows with these belong to the set.

    Raises:
        ConfigError: the set has no image.
        ManifestError: the manifest cannot be read as one.
    """
    path = storage.local_path(source)
    source = source if path is None else str(path)  # workers have other working directories
    if storage.exists(storage.join(source, RUN_FILE)):
        found = _set_of_run(source, statuses)
    elif source.endswith(".parquet"):
        found = _set_of_manifest(source)
    else:
        found = _set_of_files(source)
    if not found.rows:
        why = f"; {len(found.missing)} rows have none, {_first(found.missing)}" if found.missing else ""
        raise ConfigError(f"no image at {source}{why}; name a run's output, a manifest, a folder or a glob")
    return found


def with_requests(found: ImageSet, sources: str | Sequence[str]) -> ImageSet:
    """Return the set with each image's manifest row. A row without an image counts as missing.

    A run's output records its own requests, so other rows of the manifest are not missing there.

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


def decode_images(base: str | None, rows: Sequence[ImageRef]) -> Iterator[tuple[ImageRef, Pixels | str]]:
    """Yield each image in sRGB, [H,W,3] uint8, or the error message; images are prefetched while the caller works."""
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, len(rows), PREFETCH):
            files: dict[str, list[ImageRef]] = {}
            for row in rows[start : start + PREFETCH]:
                file = row.key if base is None else image_paths.file_of(row.address)
                files.setdefault(file, []).append(row)
            for group in threads.map(lambda group: _decode_file(base, group), files.values()):
                yield from group


def _decode_file(base: str | None, rows: Sequence[ImageRef]) -> list[tuple[ImageRef, Pixels | str]]:
    """Return the images of one file, decoded."""
    try:
        if base is None:
            data: Mapping[str, bytes | None] = {
                row.address: storage.read_bytes(row.address) if row.data is None else row.data for row in rows
            }
        else:
            data = image_paths.read_images(base, [row.address for row in rows])
    except RetouchError as error:
        return [(row, f"{type(error).__name__}: {error}") for row in rows]
    return [(row, _decode_image(row, data[row.address])) for row in rows]


def _decode_image(row: ImageRef, data: bytes | None) -> Pixels | str:
    try:
        if data is None:
            raise ObjectMissing(f"no image at {row.address}")
        if row.identity.startswith("sha256:") and row.identity != f"sha256:{hashlib.sha256(data).hexdigest()}":
            raise LoadError(f"{row.address} differs from its recorded sha256")
        return codec.decode_image(data, max_pixels=max(codec.MAX_PIXELS, row.pixels)).as_seen()
    except Exception as error:  # a decoder may raise anything, and it concerns only this image
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _set_of_run(output: str, statuses: Sequence[str]) -> ImageSet:
    table = results.read(output, ["key", "status", "output", "sha256", "error_message", "width", "height"])
    rows, missing = [], {}
    for row in table.to_pylist():
        if row["status"] in statuses and row["output"]:
            pixels = (row["width"] or 0) * (row["height"] or 0)
            rows.append(ImageRef(row["key"], row["output"], f"sha256:{row['sha256']}", pixels=pixels))
        else:
            missing[row["key"]] = f"{row['status']}: {row['error_message'] or 'not among the statuses that count'}"
    done = set(table["key"].to_pylist())
    missing |= {key: "not done yet" for key in results.read_requests(output)["key"].to_pylist() if key not in done}
    # Images of one tar shard are adjacent, so that few parts fetch it.
    rows.sort(key=lambda row: (image_paths.file_of(row.address), row.key))
    return ImageSet(output, tuple(rows), missing, read_run(output))


def _set_of_manifest(source: str) -> ImageSet:
    table = reader.read(source).table
    cells = [image_source(cell) for cell in table["image"].to_pylist()]
    identities = storage.identities(cell for cell in cells if isinstance(cell, str) and cell)
    rows, missing = [], {}
    for key, cell in zip(table["key"].to_pylist(), cells, strict=True):
        if isinstance(cell, bytes):
            rows.append(ImageRef(key, "", f"sha256:{hashlib.sha256(cell).hexdigest()}", cell))
        elif cell and (identity := identities[cell]) is not None:
            rows.append(ImageRef(key, cell, identity))
        else:
            missing[key] = f"no image at {cell}" if cell else "the image cell is empty"
    return ImageSet(None, tuple(rows), missing)


def _set_of_files(source: str) -> ImageSet:
    listed = storage.list_files(source) if storage.is_folder(source) else storage.glob(source)
    found = sorted(file for file in listed if file.lower().endswith(codec.SUFFIXES))
    folder = source if storage.is_folder(source) else _glob_folder(source)
    # A key is the path inside the folder without its ending, so that it can be found in a manifest.
    keys = [file.removeprefix(folder).lstrip("/").rpartition(".")[0] for file in found]
    twice = [key for key, times in Counter(keys).items() if times > 1]
    if twice:
        raise ConfigError(f"{source} has {len(twice)} images under two endings, first {twice[0]}; keep one of each")
    identities = storage.identities(found)
    return ImageSet(None, tuple(ImageRef(k, f, identities[f] or "") for k, f in zip(keys, found, strict=True)))


def _glob_folder(pattern: str) -> str:
    """Return the folder of a glob before its first wildcard."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0]


def _first(missing: Mapping[str, str]) -> str:
    return next((f"first {key}: {reason}" for key, reason in missing.items()), "")
