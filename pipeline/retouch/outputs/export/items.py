"""The rows of an export: their image files, checked against the results, and their records."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from retouch.errors import EditError, LoadError, ObjectMissing
from retouch.imaging import codec, regions
from retouch.manifests import deferred_images
from retouch.manifests.decode import decode, recorded_spec
from retouch.manifests.samples import scaled_to
from retouch.outputs import image_paths
from retouch.outputs.export import provenance
from retouch.outputs.export.content_credentials import Signer
from retouch.outputs.export.row_filter import Choice

CHANGED: Final = "the manifest's row, or a file it refers to, has changed since the run"
Layout = Literal["edited", "pairs"]
THREADS: Final = 8  # rows read, checked and encoded at the same time
AHEAD: Final = 32  # rows in memory at once: about 50 MB of 1024 x 1024 as PNG


@dataclass(frozen=True)
class Item:
    """A row to export."""

    key: str
    files: Mapping[str, bytes]  # role (``edited``; in pairs also ``source`` and ``mask``) to an image file's bytes
    record: Mapping[str, Any]  # exported columns
    prompt: str = ""
    extension: str = "png"  # of ``edited``; source and mask are PNG

    def extension_of(self, role: str) -> str:
        """Return the extension of one of its files."""
        return self.extension if role == "edited" else "png"


@dataclass(frozen=True)
class SkippedRow:
    """A row that was chosen but cannot be exported."""

    key: str
    reason: str  # a class of reasons, for counts
    detail: str


@dataclass(frozen=True)
class RunSource:
    """The run that rows are exported from, and what to add to their images."""

    output: str
    record: Mapping[str, Any]  # run.json
    requests: pa.Table | None = None  # the manifest; needed for pairs
    changed: Collection[str] = ()  # keys whose request has changed since the run
    stamp: bool = True  # write provenance into each edited image
    signer: Signer | None = None  # signs each edited image


def read_items(source: RunSource, choice: Choice, layout: Layout) -> Iterator[list[Item | SkippedRow]]:
    """Yield every chosen row in order, up to ``AHEAD`` at a time.

    Raises:
        StorageError: an image could not be read after bounded retries; one that is missing is a ``SkippedRow``.
    """
    rows, places = choice.rows, None
    if layout == "pairs" and source.requests is not None:
        places = pc.index_in(rows["key"], value_set=source.requests["key"])
        order = pc.sort_indices(places)  # the manifest's order, because its files are read by row group
        rows, places = rows.take(order), places.take(order)
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, rows.num_rows, AHEAD):
            some = rows.slice(start, AHEAD).to_pylist()
            requests = {} if places is None else _requests(source.requests, places.slice(start, AHEAD))
            files: dict[str, list[dict[str, Any]]] = {}
            for row in some:
                files.setdefault(image_paths.file_of(row["output"]), []).append(row)
            work = partial(_items_of, source, choice.columns, layout, requests)
            yield [item for group in threads.map(work, files.values()) for item in group]


def _items_of(
    source: RunSource,
    columns: Sequence[str],
    layout: Layout,
    requests: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> list[Item | SkippedRow]:
    """Return the items of rows whose images are in the same file."""
    data = image_paths.read_images(source.output, [row["output"] for row in rows])
    return [_item(source, row, data.pop(row["output"]), columns, layout, requests.get(row["key"])) for row in rows]


def _requests(table: pa.Table, places: pa.ChunkedArray) -> dict[str, dict[str, Any]]:
    """Return the manifest's rows at these places, with their images' bytes, by key."""
    wanted = table.take(places.drop_null())
    return {row["key"]: row for row in deferred_images.load_deferred(wanted).to_pylist()} if wanted.num_rows else {}


def _item(
    source: RunSource,
    row: Mapping[str, Any],
    data: bytes | None,
    columns: Sequence[str],
    layout: Layout,
    request: Mapping[str, Any] | None,
) -> Item | SkippedRow:
    key, path = row["key"], row["output"]
    try:
        if data is None:
            raise ObjectMissing(f"no image at {image_paths.locate(source.output, path)}")
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise EditError(f"{image_paths.locate(source.output, path)} differs from the recorded sha256")
        before = _before(source, row, data, request) if layout == "pairs" else {}
    except ObjectMissing as error:
        return SkippedRow(key, "image missing", str(error))
    except EditError as error:
        return SkippedRow(key, "image is another", str(error))
    except LoadError as error:
        return SkippedRow(key, "source not as edited", str(error))
    extension = path.rpartition(".")[2].lower()
    try:
        edited = _with_provenance(source, row, data, extension)
    except EditError as error:
        return SkippedRow(key, "not signed", str(error))
    record = {name: row[name] for name in columns}
    return Item(key, {**before, "edited": edited}, record, row.get("prompt") or "", extension)


def _with_provenance(source: RunSource, row: Mapping[str, Any], data: bytes, extension: str) -> bytes:
    """Return the image's file with provenance and signature. Raises EditError if it cannot be signed."""
    facts = provenance.describe_row(source.record, row)
    stamped = provenance.stamp(data, facts) if source.stamp else data
    return stamped if source.signer is None else source.signer.sign(stamped, extension, facts)


def _before(
    source: RunSource, row: Mapping[str, Any], data: bytes, request: Mapping[str, Any] | None
) -> dict[str, bytes]:
    """Return source and mask as they were edited: upright, at the edited image's size, as PNG.

    Those of a canvas are the source reflected in the new borders, and the borders.

    Raises:
        LoadError: they cannot be read, or have changed since the run.
    """
    if request is None:
        raise LoadError("the manifest no longer has a row with this key")
    if row["key"] in source.changed:
        raise LoadError(CHANGED)
    sample = decode({**request, "fingerprint": row["fingerprint"]}, recorded_spec(source.record["job"]))
    if sample.failure is not None:
        raise LoadError(f"{sample.failure.type}: {sample.failure.message}")
    edited = codec.decode_output(data, row["width"], row["height"]).pixels
    if source.record["job"].get("output_size") == "network":
        sample = scaled_to(sample, (edited.shape[0], edited.shape[1]))
    assert sample.source is not None
    assert sample.mask is not None
    if edited.shape != sample.source.shape:
        sizes = (f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (sample.source, edited))
        raise LoadError("the source is now {}, the edited image {}".format(*sizes))
    changed = regions.changed_outside(sample.source, edited, sample.mask)
    if changed and row["background_changed_px"] == 0:
        raise LoadError(f"source or mask has changed since the run: {changed} px outside the mask differ now")
    return {
        "source": codec.encode(sample.source, alpha=sample.alpha, profile=sample.profile),
        "mask": codec.encode_mask(sample.mask),
    }
