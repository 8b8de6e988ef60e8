"""Chosen rows to what leaves of each: checked image files and a record, or why it cannot. Knows no format."""

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
from retouch.imaging import codec
from retouch.jobs.config import MaskSpec
from retouch.manifests import deferred_images
from retouch.manifests.decode import DecodeSpec, decode
from retouch.outputs import image_paths
from retouch.outputs.export import provenance
from retouch.outputs.export.content_credentials import Signer
from retouch.outputs.export.row_filter import Choice

CHANGED: Final = "the manifest's row, or a file that it names, is not the one that was answered"
Layout = Literal["edited", "pairs"]
THREADS: Final = 8  # images fetched, checked and encoded side by side
AHEAD: Final = 32  # rows in memory at once: some 50 MB of 1024 x 1024 as PNG


@dataclass(frozen=True)
class Item:
    """One row that leaves."""

    key: str
    files: Mapping[str, bytes]  # role (``edited``, in pairs ``source`` and ``mask`` too) to an image file's bytes
    record: Mapping[str, Any]  # columns that leave with it
    prompt: str = ""
    extension: str = "png"  # of ``edited``; source and mask are PNG

    def extension_of(self, role: str) -> str:
        """Of one of its files."""
        return self.extension if role == "edited" else "png"


@dataclass(frozen=True)
class Lacking:
    """One row that was to leave and cannot."""

    key: str
    reason: str  # its class, for counting
    detail: str


@dataclass(frozen=True)
class Origin:
    """What stands behind the rows."""

    output: str
    record: Mapping[str, Any]  # run.json
    requests: pa.Table | None = None  # the manifest, for ``deferred_images.filled``; needed for pairs
    changed: Collection[str] = ()  # keys whose request is not the one that was answered
    stamp: bool = True  # write where it comes from into each edited image
    signer: Signer | None = None  # and sign it


def items(origin: Origin, choice: Choice, layout: Layout) -> Iterator[list[Item | Lacking]]:
    """Every chosen row in order, at most ``AHEAD`` at a time.

    Raises:
        StorageError: an image could not be read after bounded retries; one that is not there is ``Lacking``.
    """
    rows, places = choice.rows, None
    if layout == "pairs" and origin.requests is not None:
        places = pc.index_in(rows["key"], value_set=origin.requests["key"])
        order = pc.sort_indices(places)  # as the manifest has them, whose files are read group by group
        rows, places = rows.take(order), places.take(order)
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, rows.num_rows, AHEAD):
            some = rows.slice(start, AHEAD).to_pylist()
            requests = {} if places is None else _requests(origin.requests, places.slice(start, AHEAD))
            files: dict[str, list[dict[str, Any]]] = {}
            for row in some:
                files.setdefault(image_paths.file_of(row["output"]), []).append(row)
            work = partial(_items_of, origin, choice.columns, layout, requests)
            yield [item for group in threads.map(work, files.values()) for item in group]


def _items_of(
    origin: Origin,
    columns: Sequence[str],
    layout: Layout,
    requests: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
) -> list[Item | Lacking]:
    """Those whose images rest in one file."""
    data = image_paths.read_images(origin.output, [row["output"] for row in rows])
    return [_item(origin, row, data.pop(row["output"]), columns, layout, requests.get(row["key"])) for row in rows]


def _requests(table: pa.Table, places: pa.ChunkedArray) -> dict[str, dict[str, Any]]:
    """The manifest's rows at some places, with their images' bytes, by key."""
    wanted = table.take(places.drop_null())
    return {row["key"]: row for row in deferred_images.filled(wanted).to_pylist()} if wanted.num_rows else {}


def _item(
    origin: Origin,
    row: Mapping[str, Any],
    data: bytes | None,
    columns: Sequence[str],
    layout: Layout,
    request: Mapping[str, Any] | None,
) -> Item | Lacking:
    key, address = row["key"], row["output"]
    try:
        if data is None:
            raise ObjectMissing(f"no image at {image_paths.locate(origin.output, address)}")
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise EditError(f"{image_paths.locate(origin.output, address)} is not the image that was recorded")
        before = _before(origin, row, data, request) if layout == "pairs" else {}
    except ObjectMissing as error:
        return Lacking(key, "image missing", str(error))
    except EditError as error:
        return Lacking(key, "image is another", str(error))
    except LoadError as error:
        return Lacking(key, "source not as edited", str(error))
    extension = address.rpartition(".")[2].lower()
    try:
        edited = _with_origin(origin, row, data, extension)
    except EditError as error:
        return Lacking(key, "not signed", str(error))
    record = {name: row[name] for name in columns}
    return Item(key, {**before, "edited": edited}, record, row.get("prompt") or "", extension)


def _with_origin(origin: Origin, row: Mapping[str, Any], data: bytes, extension: str) -> bytes:
    """The image's file with what is to be said of it. Raises EditError where it cannot be signed."""
    facts = provenance.of_row(origin.record, row)
    stamped = provenance.stamped(data, facts) if origin.stamp else data
    return stamped if origin.signer is None else origin.signer.signed(stamped, extension, facts)


def _before(origin: Origin, row: Mapping[str, Any], data: bytes, request: Mapping[str, Any] | None) -> dict[str, bytes]:
    """Source and mask as they were edited: upright, at the image's size, as PNG.

    Raises:
        LoadError: they are not to be had, or not those that were edited.
    """
    if request is None:
        raise LoadError("the manifest has no row of this key any more")
    if row["key"] in origin.changed:
        raise LoadError(CHANGED)
    how = MaskSpec.model_validate(origin.record["job"]["mask"])
    sample = decode({**request, "fingerprint": row["fingerprint"]}, DecodeSpec(frozenset(), how))
    if sample.failure is not None:
        raise LoadError(f"{sample.failure.type}: {sample.failure.message}")
    assert sample.source is not None
    assert sample.mask is not None
    edited = codec.decode_image(data, "edited image").pixels
    if edited.shape != sample.source.shape:
        sizes = (f"{pixels.shape[1]}x{pixels.shape[0]}" for pixels in (sample.source, edited))
        raise LoadError("the source is {} now, the edited image {}".format(*sizes))
    changed = codec.changed_outside(sample.source, edited, sample.mask)
    if changed and row["background_changed_px"] == 0:
        raise LoadError(f"source or mask has changed since: {changed} px outside the mask differ now")
    return {
        "source": codec.encode(sample.source, alpha=sample.alpha),
        "mask": codec.encode_mask(sample.mask),
    }
