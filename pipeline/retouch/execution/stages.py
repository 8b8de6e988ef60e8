"""Decode and write: what happens to a block of rows before and after the engine. Knows neither torch nor Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from retouch import plugins, storage, telemetry
from retouch.errors import ConfigError, DeadlineExceeded, EditError, LeaseLost, LoadError, Unavailable
from retouch.execution import timeouts
from retouch.execution.specs import DecodeSpec, WriteSpec
from retouch.imaging import codec
from retouch.manifests import deferred_images
from retouch.manifests.samples import Answer, Failure, Kept, Sample, failed_to_load, travellers, with_travellers
from retouch.outputs import lease, results
from retouch.outputs.in_flight import Flights, Loss
from retouch.outputs.sinks import Sink
from retouch.schema import REQUEST_COLUMNS, SUCCESS, Mask, Pixels

DECODE_THREADS = 8  # a block's objects are fetched side by side: latency, not the processor, is what reading waits for


@telemetry.timed("stage_seconds.decode")
def decode_block(table: pa.Table, spec: DecodeSpec) -> pa.Table:
    """A block of manifest rows to the same block carrying samples; request columns that were used up are dropped."""
    table = deferred_images.filled(table)
    requests = table.select([n for n in (*REQUEST_COLUMNS, "fingerprint") if n in table.column_names]).to_pylist()
    flights = Flights(spec.output, "decode", _block_seconds(spec, len(requests)))
    samples = flights.in_turns(
        requests,
        lambda request: str(request["key"]),
        lambda some: _decode_all(some, spec),
        lambda request, loss: Sample(request["key"], request["fingerprint"], failure=Failure.of_loss(loss, "decode")),
    )
    kept = [name for name in table.column_names if name not in REQUEST_COLUMNS and name != "fingerprint"]
    return with_travellers(table.select(kept), samples)


def _decode_all(requests: Sequence[Mapping[str, Any]], spec: DecodeSpec) -> list[Sample]:
    return timeouts.each(
        requests,
        lambda request: decode(request, spec),
        threads=DECODE_THREADS,
        seconds=spec.seconds,
        late=lambda request: too_late(request, spec),
    )


def too_late(request: Mapping[str, Any], spec: DecodeSpec) -> Sample:
    """A request to a sample that says that its deadline has passed."""
    error = DeadlineExceeded(f"not fetched and decoded after {spec.seconds:g} s")
    return failed_to_load(request["key"], request["fingerprint"], error)


def _block_seconds(spec: DecodeSpec, rows: int) -> float | None:
    """The deadline of a block, for what not even a thread's deadline ends: a decoder that keeps the interpreter."""
    return None if spec.seconds is None else spec.seconds * (rows // DECODE_THREADS + 2)


def decode(request: Mapping[str, Any], spec: DecodeSpec) -> Sample:
    """One request to a sample: with pixels, or with the reason why not.

    Raises:
        Unavailable: the storage is out of reach, which is no row's fault.
    """
    key, fingerprint = request["key"], request["fingerprint"]
    try:
        return _decode(request, spec)
    except Unavailable:
        raise
    except Exception as error:
        return failed_to_load(key, fingerprint, error)


def _decode(request: Mapping[str, Any], spec: DecodeSpec) -> Sample:
    params, seed = _params(request.get("params")), request.get("seed")
    if seed is not None and seed < 0:
        raise LoadError(f"seed {seed} is negative; give 0 or more, or leave the cell empty")
    _check_needs(request, params, spec)
    image = codec.decode_image(bytes_of(request["image"], "image"))
    size = image.pixels.shape[:2]
    exemplar = request.get("exemplar") if "exemplar" in spec.inputs else None
    return Sample(
        key=request["key"],
        fingerprint=request["fingerprint"],
        prompt=request.get("prompt") or "",
        source_prompt=request.get("source_prompt"),
        checkpoint=request.get("checkpoint"),
        seed=seed,
        params=params,
        source=image.pixels,
        alpha=image.alpha,
        mask=_mask(request, (size[0], size[1]), spec),
        exemplar=None if exemplar is None else codec.decode_image(bytes_of(exemplar, "exemplar"), "exemplar").pixels,
        landmarks=request.get("landmarks"),
    )


def _check_needs(request: Mapping[str, Any], params: Mapping[str, Any], spec: DecodeSpec) -> None:
    """See that the row has what its editor cannot do without; cells of white space are empty."""
    needs = spec.needs
    if params and spec.params_type is not None:
        try:
            checked = plugins.check_params(spec.params_type, {**spec.params, **params}, "this row's params")
        except ConfigError:
            return  # for the engine to say: it is no fault of what is loaded here
        needs = getattr(checked, "needs", frozenset())
    for name in sorted(needs):
        cell = request.get(name)
        if isinstance(cell, Mapping):
            cell = cell.get("bytes") or cell.get("path")
        if not (cell.strip() if isinstance(cell, str) else cell):
            raise LoadError(f"the {name} cell is empty, and without it the job's editor can do nothing; fill it in")


def _mask(request: Mapping[str, Any], size: tuple[int, int], spec: DecodeSpec) -> Any:
    cell, bbox = request.get("mask"), request.get("bbox")
    if cell is not None:
        how = spec.mask
        data = bytes_of(cell, "mask")
        mask = codec.decode_mask(data, size, source=how.source, invert=how.invert, threshold=how.threshold)
    elif bbox is not None:
        mask = codec.mask_from_bbox(bbox, size)
    else:
        mask = codec.whole(size)
    if not mask.any():
        raise LoadError("the mask is black everywhere, so nothing would be edited; white marks what to edit")
    return mask


def bytes_of(cell: Any, column: str) -> bytes:
    """Bytes of a manifest cell: a URI, raw bytes, or a ``{bytes, path}`` struct (bytes first).

    Raises:
        LoadError: the cell is empty; ``column`` names it.
        StorageError: there is no such object, or it cannot be read.
    """
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
    elif isinstance(cell, Sequence):
        cell = dict(cell)  # an Arrow map's pairs
    if not isinstance(cell, Mapping):
        raise LoadError(f"params holds {type(cell).__name__}, not a mapping of parameters")
    return {str(name): value for name, value in cell.items() if value is not None}


@telemetry.timed("stage_seconds.write")
def write_block(table: pa.Table, spec: WriteSpec) -> pa.Table:
    """Lay down a block's images, then its rows of results in one file; returns those rows.

    Writing the same answers again, as a retried task does, gives the same files.
    """
    answers: list[Answer] = travellers(table)
    pairs = [(answer.sample.key, answer.sample.fingerprint) for answer in answers]
    sink: Sink = plugins.find("sinks", spec.sink)(spec.output, pairs)
    flights = Flights(spec.output, "write", spec.seconds)
    lease.check(spec.output, spec.epoch)  # before the images, which have the same names in every run
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        records = flights.in_turns(
            answers,
            lambda answer: answer.sample.key,
            lambda some: list(threads.map(lambda answer: _record(answer, spec, sink), some)),
            _lost,
        )
    sink.close()
    caller = [name for name in table.column_names if name in spec.schema.names]
    passed = table.select(caller).to_pylist() if caller else [{}] * len(records)
    rows = pa.Table.from_pylist(
        [{**row, **record} for row, record in zip(passed, records, strict=True)], schema=spec.schema
    )
    _commit(rows, spec)
    for status in rows["status"].to_pylist():
        telemetry.count(f"rows.{status}")
    return rows


def _commit(rows: pa.Table, spec: WriteSpec) -> None:
    """Put a block's results in place; taken back where a newer run has the output's lease by then.

    Raises:
        LeaseLost: a newer run took the output over.
    """
    lease.check(spec.output, spec.epoch)
    path = results.write_part(spec.output, rows, epoch=spec.epoch)
    try:
        lease.check(spec.output, spec.epoch)
    except LeaseLost:
        storage.delete(storage.join(spec.output, path))
        raise


def _begun(answer: Answer) -> dict[str, Any]:
    return {
        "key": answer.sample.key,
        "fingerprint": answer.sample.fingerprint,
        "attempts": answer.attempts,
        "edit_seconds": answer.edit_seconds,
    }


def _lost(answer: Answer, loss: Loss) -> dict[str, Any]:
    return {**_begun(answer), **_failed(Failure.of_loss(loss, "write"))}


def _record(answer: Answer, spec: WriteSpec, sink: Sink) -> dict[str, Any]:
    """The results row of an answer, its image written. A fault in composing or encoding is the row's failure."""
    record = _begun(answer)
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
    for kept, (data, _) in zip(answer.kept, encoded, strict=True):
        digest = hashlib.sha256(data).hexdigest()
        # The content in the name: on a device that rounds differently every time, a block that is done again must not
        # change a file that a committed row names.
        name = f"{sample.fingerprint}-{digest[:8]}"
        path = sink.put(sample.key, name, data, codec.EXTENSIONS[spec.image_format])
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


@dataclass(frozen=True)
class Composed:
    """A candidate at the source's native size."""

    pixels: Pixels  # [H, W, 3]
    alpha: Any  # [H, W] uint8 where the source has an alpha channel, opaque in the mask
    mask: Mask  # [H, W], what was edited


def composed(answer: Answer, kept: Kept, how: Literal["mask", "region"] = "mask") -> Composed:
    """The source with a candidate in it.

    The mask is the row's where the network saw it: of a face's square what lies in both.

    Args:
        answer: of a row that was edited.
        kept: one of its candidates.
        how: ``region`` shows all that the network saw, ``mask`` of it what lies in the mask.
    """
    sample = answer.sample
    assert sample.source is not None
    assert sample.mask is not None
    mask = sample.mask & answer.region.footprint(sample.mask.shape)
    shown = mask if how == "mask" else codec.whole(mask.shape)
    pixels = codec.composite(sample.source, kept.image, shown, answer.region)
    return Composed(pixels, codec.opaque_inside(sample.alpha, mask), mask)


def _encode(answer: Answer, kept: Kept, spec: WriteSpec) -> tuple[bytes, int]:
    """The file's bytes, and how many pixels differ from the source outside the mask when it is read back."""
    made = composed(answer, kept, spec.composite)
    data = codec.encode(made.pixels, spec.image_format, alpha=made.alpha)
    assert answer.sample.source is not None
    changed = codec.changed_outside(answer.sample.source, _read_back(data), made.mask)
    if changed and spec.composite == "mask" and spec.image_format != "jpeg":
        raise EditError(f"{changed} pixels outside the mask changed on the way to the file")
    return data, changed


def _read_back(data: bytes) -> Pixels:
    return codec.decode_image(data).pixels


def _failed(failure: Failure) -> dict[str, Any]:
    return {
        "status": failure.status,
        "error_type": failure.type,
        "error_message": failure.message,
        "error_stage": failure.stage,
    }
