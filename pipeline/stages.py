"""Decode and write: what happens to a block of rows before and after the engine. Knows neither torch nor Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline import images, plugins, results, storage
from pipeline.errors import EditError, LoadError
from pipeline.samples import Answer, Failure, Kept, Sample, failed_to_load, travellers, with_travellers
from pipeline.schema import REQUEST_COLUMNS, SUCCESS, Pixels
from pipeline.sinks import Sink
from pipeline.specs import DecodeSpec, WriteSpec

DECODE_THREADS = 8  # a block's objects are fetched side by side: latency, not the processor, is what reading waits for


def decode_block(table: pa.Table, spec: DecodeSpec) -> pa.Table:
    """A block of manifest rows to the same block carrying samples; request columns that were used up are dropped."""
    requests = table.select([n for n in (*REQUEST_COLUMNS, "fingerprint") if n in table.column_names]).to_pylist()
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        samples = list(threads.map(lambda request: decode(request, spec), requests))
    kept = [name for name in table.column_names if name not in REQUEST_COLUMNS and name != "fingerprint"]
    return with_travellers(table.select(kept), samples)


def decode(request: Mapping[str, Any], spec: DecodeSpec) -> Sample:
    """One request to a sample: with pixels, or with the reason why not. Never raises."""
    key, fingerprint = request["key"], request["fingerprint"]
    try:
        return _decode(request, spec)
    except Exception as error:
        return failed_to_load(key, fingerprint, error)


def _decode(request: Mapping[str, Any], spec: DecodeSpec) -> Sample:
    image = images.decode_image(_bytes_of(request["image"], "image"))
    size = image.pixels.shape[:2]
    exemplar = request.get("exemplar") if "exemplar" in spec.inputs else None
    return Sample(
        key=request["key"],
        fingerprint=request["fingerprint"],
        prompt=request.get("prompt") or "",
        source_prompt=request.get("source_prompt"),
        checkpoint=request.get("checkpoint"),
        seed=request.get("seed"),
        params=_params(request.get("params")),
        source=image.pixels,
        alpha=image.alpha,
        mask=_mask(request, (size[0], size[1]), spec),
        exemplar=None if exemplar is None else images.decode_image(_bytes_of(exemplar, "exemplar")).pixels,
        landmarks=request.get("landmarks"),
    )


def _mask(request: Mapping[str, Any], size: tuple[int, int], spec: DecodeSpec) -> Any:
    cell, bbox = request.get("mask"), request.get("bbox")
    if cell is not None:
        how = spec.mask
        data = _bytes_of(cell, "mask")
        mask = images.decode_mask(data, size, source=how.source, invert=how.invert, threshold=how.threshold)
    elif bbox is not None:
        mask = images.mask_from_bbox(bbox, size)
    else:
        mask = images.whole(size)
    if not mask.any():
        raise LoadError("the mask is black everywhere, so nothing would be edited; white marks what to edit")
    return mask


def _bytes_of(cell: Any, column: str) -> bytes:
    """Bytes of a manifest cell: a URI, raw bytes, or a ``{bytes, path}`` struct (bytes first)."""
    if isinstance(cell, Mapping):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or cell == "":
        raise LoadError(f"the {column} cell is empty")
    return cell if isinstance(cell, bytes) else storage.read_bytes(cell)


def _params(cell: Any) -> dict[str, Any]:
    """A row's overrides: a JSON text, a struct or a map; a null field of a struct overrides nothing."""
    if cell is None or cell == "":
        return {}
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise LoadError(f"params is not JSON: {error}") from None
    if not isinstance(cell, Mapping | Sequence):
        raise LoadError(f"params holds {type(cell).__name__}, not a mapping")
    return {str(name): value for name, value in dict(cell).items() if value is not None}


def write_block(table: pa.Table, spec: WriteSpec) -> pa.Table:
    """Lay down a block's images, then its rows of results in one file; returns those rows.

    Writing the same answers again, as a retried task does, gives the same files.
    """
    answers: list[Answer] = travellers(table)
    pairs = [(answer.sample.key, answer.sample.fingerprint) for answer in answers]
    sink: Sink = plugins.find("sinks", spec.sink)(spec.output, pairs)
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        records = list(threads.map(lambda answer: _record(answer, spec, sink), answers))
    sink.close()
    caller = [name for name in table.column_names if name in spec.schema.names]
    passed = table.select(caller).to_pylist() if caller else [{}] * len(records)
    rows = pa.Table.from_pylist(
        [{**row, **record} for row, record in zip(passed, records, strict=True)], schema=spec.schema
    )
    results.write_part(spec.output, rows, epoch=spec.epoch)
    return rows


def _record(answer: Answer, spec: WriteSpec, sink: Sink) -> dict[str, Any]:
    """The results row of an answer, its image written. A fault in composing or encoding is the row's failure."""
    sample = answer.sample
    record: dict[str, Any] = {
        "key": sample.key,
        "fingerprint": sample.fingerprint,
        "attempts": answer.attempts,
        "edit_seconds": answer.edit_seconds,
    }
    if answer.failure is None or answer.kept:
        try:
            encoded = [_encode(answer, kept, spec) for kept in answer.kept]
        except Exception as error:
            return {**record, **_failed(Failure.of(error, "encode"))}
        record |= _written(answer, encoded, spec, sink)
    return {**record, **(_failed(answer.failure) if answer.failure else {"status": SUCCESS})}


def _written(answer: Answer, encoded: Sequence[tuple[bytes, int]], spec: WriteSpec, sink: Sink) -> dict[str, Any]:
    """Columns of a row that has an image. Storage errors rise: the block is retried, never half answered."""
    sample, best = answer.sample, answer.kept[0]
    assert sample.source is not None
    placed = []
    for rank, (kept, (data, _)) in enumerate(zip(answer.kept, encoded, strict=True)):
        name = sample.fingerprint if rank == 0 else f"{sample.fingerprint}-{rank}"
        path = sink.put(sample.key, name, data, images.EXTENSIONS[spec.image_format])
        digest = hashlib.sha256(data).hexdigest()
        placed.append({"output": path, "sha256": digest, "candidate": kept.candidate, "seed": kept.seed})
    height, width = sample.source.shape[:2]
    return {
        **placed[0],
        "runners_up": placed[1:],
        "width": width,
        "height": height,
        "background_changed_px": encoded[0][1],
        **best.scores,
    }


def _encode(answer: Answer, kept: Kept, spec: WriteSpec) -> tuple[bytes, int]:
    """The file's bytes, and how many pixels differ from the source outside the mask when it is read back.

    The mask is the row's where the network saw it: of a face's square what lies in both.
    """
    sample = answer.sample
    assert sample.source is not None
    assert sample.mask is not None
    mask = sample.mask & answer.region.footprint(sample.mask.shape)
    shown = mask if spec.composite == "mask" else images.whole(mask.shape)
    pixels = images.composite(sample.source, kept.image, shown, answer.region)
    alpha = images.opaque_inside(sample.alpha, mask)
    data = images.encode(pixels, spec.image_format, alpha=alpha)
    changed = images.changed_outside(sample.source, _read_back(data), mask)
    if changed and spec.composite == "mask" and spec.image_format != "jpeg":
        raise EditError(f"{changed} pixels outside the mask changed on the way to the file")
    return data, changed


def _read_back(data: bytes) -> Pixels:
    return images.decode_image(data).pixels


def _failed(failure: Failure) -> dict[str, Any]:
    return {
        "status": failure.status,
        "error_type": failure.type,
        "error_message": failure.message,
        "error_stage": failure.stage,
    }
