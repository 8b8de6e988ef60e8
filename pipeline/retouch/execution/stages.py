"""The decode and write stages: a block of rows before and after the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from retouch import plugins, storage, telemetry
from retouch.errors import EditError, LeaseLost
from retouch.execution import timeouts
from retouch.execution.outcomes import KeptCandidate, Outcome, lost_row, pack_rows, unpack_rows
from retouch.execution.specs import WriteSpec
from retouch.imaging import codec, colour, regions
from retouch.manifests import deferred_images
from retouch.manifests.decode import DecodeSpec, decode, timed_out
from retouch.manifests.samples import Failure, Sample
from retouch.outputs import lease, results
from retouch.outputs.in_flight import InFlight
from retouch.outputs.sinks import Sink
from retouch.schema import REQUEST_COLUMNS, SUCCESS, Mask, Pixels

DECODE_THREADS = 8  # a block's objects are fetched concurrently, since reading waits for latency, not for the CPU


@telemetry.timed("stage_seconds.decode")
def decode_block(table: pa.Table, spec: DecodeSpec) -> pa.Table:
    """Decode a block of manifest rows. Return the caller's columns and the samples; request columns are dropped."""
    table = deferred_images.load_deferred(table)
    columns = [name for name in (*REQUEST_COLUMNS, "fingerprint") if name in table.column_names]
    requests = {str(request["key"]): request for request in table.select(columns).to_pylist()}
    in_flight = InFlight(spec.output, "decode", _block_timeout(spec, len(requests)))
    samples: dict[str, Sample] = {}
    for keys in in_flight.groups(list(requests)):
        with in_flight.mark(keys):
            samples |= zip(keys, _decode_all([requests[key] for key in keys], spec), strict=True)
    for key, loss in in_flight.given_up.items():
        samples[key] = Sample(key, requests[key]["fingerprint"], failure=lost_row(loss, "decode"))
    in_flight.clear(requests)
    kept = [name for name in table.column_names if name not in columns]
    return pack_rows(table.select(kept), [samples[key] for key in requests])


def _decode_all(requests: Sequence[Mapping[str, Any]], spec: DecodeSpec) -> list[Sample]:
    return timeouts.map_with_deadline(
        requests,
        lambda request: decode(request, spec),
        threads=DECODE_THREADS,
        seconds=spec.seconds,
        late=lambda request: timed_out(request, spec),
    )


def _block_timeout(spec: DecodeSpec, rows: int) -> float | None:
    """Seconds for a block: the last resort if a decoder blocks the interpreter, and with it the rows' own timeouts."""
    return None if spec.seconds is None else spec.seconds * (rows // DECODE_THREADS + 2)


@telemetry.timed("stage_seconds.write")
def write_block(table: pa.Table, spec: WriteSpec) -> pa.Table:
    """Write a block's images, then its result rows as one Parquet file. Return the rows.

    Writing the same outcomes again, as a retried task does, gives the same files.
    """
    outcomes: dict[str, Outcome] = {outcome.sample.key: outcome for outcome in unpack_rows(table)}
    row_set = [(key, outcome.sample.fingerprint) for key, outcome in outcomes.items()]
    sink: Sink = plugins.find("sinks", spec.sink)(spec.output, row_set)
    in_flight = InFlight(spec.output, "write", spec.seconds)
    lease.check(spec.output, spec.epoch)  # before the images, which have the same names in every run
    records: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        for keys in in_flight.groups(list(outcomes)):
            with in_flight.mark(keys):
                records |= zip(keys, threads.map(lambda key: _record(outcomes[key], spec, sink), keys), strict=True)
    for key, loss in in_flight.given_up.items():
        records[key] = {**_base_record(outcomes[key]), **_error_columns(lost_row(loss, "write"))}
    in_flight.clear(outcomes)
    sink.close()
    callers = [name for name in table.column_names if name in spec.schema.names]
    passed_through = table.select(callers).to_pylist() if callers else [{}] * len(outcomes)
    rows = pa.Table.from_pylist(
        [{**row, **records[key]} for row, key in zip(passed_through, outcomes, strict=True)], schema=spec.schema
    )
    _commit(rows, spec)
    for status in rows["status"].to_pylist():
        telemetry.count(f"rows.{status}")
    return rows


def _commit(rows: pa.Table, spec: WriteSpec) -> None:
    """Write a block's result file, and delete it again if a newer run has taken the output's lease meanwhile.

    Raises:
        LeaseLost: a newer run took the output over.
    """
    lease.check(spec.output, spec.epoch)
    path = results.write_block(spec.output, rows, epoch=spec.epoch)
    try:
        lease.check(spec.output, spec.epoch)
    except LeaseLost:
        storage.delete(storage.join(spec.output, path))
        raise


def _base_record(outcome: Outcome) -> dict[str, Any]:
    return {
        "key": outcome.sample.key,
        "fingerprint": outcome.sample.fingerprint,
        "attempts": outcome.attempts,
        "edit_seconds": outcome.edit_seconds,
    }


def _record(outcome: Outcome, spec: WriteSpec, sink: Sink) -> dict[str, Any]:
    """Write a row's images and return its result row. An error in compositing or encoding is the row's failure."""
    record = _base_record(outcome)
    if outcome.failure is None or outcome.kept:
        try:
            encoded = [_encode(outcome, kept, spec) for kept in outcome.kept]
        except Exception as error:
            return {**record, **_error_columns(Failure.of(error, "encode"))}
        record |= _store(outcome, encoded, spec, sink)
    return {**record, **(_error_columns(outcome.failure) if outcome.failure else {"status": SUCCESS})}


@dataclass(frozen=True)
class _Encoded:
    """An image file."""

    data: bytes
    changed: int  # pixels outside the mask that differ from the source when the file is read back
    size: regions.Size


def _store(outcome: Outcome, encoded: Sequence[_Encoded], spec: WriteSpec, sink: Sink) -> dict[str, Any]:
    """Write encoded images and return their columns. Storage errors are raised: the whole block is retried."""
    sample, best = outcome.sample, outcome.kept[0]
    stored = []
    for kept, file in zip(outcome.kept, encoded, strict=True):
        data = file.data
        digest = hashlib.sha256(data).hexdigest()
        # The content is part of the name: on a device whose rounding varies, redoing a block must not change a file
        # that a committed row names.
        name = f"{sample.fingerprint}-{digest[:8]}"
        path = sink.put(sample.key, name, data, codec.EXTENSIONS[spec.image_format])
        stored.append({"output": path, "sha256": digest, "candidate": kept.candidate, "seed": kept.seed})
    height, width = encoded[0].size
    return {
        **stored[0],
        "runners_up": stored[1:],
        "width": width,
        "height": height,
        "background_changed_px": encoded[0].changed,
        "converted_from": sample.converted_from,
        **best.scores,
    }


@dataclass(frozen=True)
class Composite:
    """A candidate composited into its source, at the source's native size and in its colours; or as it is, in sRGB."""

    pixels: Pixels  # [H, W, 3]
    alpha: Any  # [H, W] uint8 if the source has an alpha channel, opaque inside the mask
    mask: Mask  # [H, W], what was edited


def composite(outcome: Outcome, kept: KeptCandidate, how: Literal["mask", "region"] = "mask") -> Composite:
    """Composite a candidate into its source.

    The mask is the part of the row's mask that the network saw, such as its intersection with a face's square.

    Args:
        outcome: of a row that was edited.
        kept: one of its candidates.
        how: ``mask`` replaces the pixels inside the mask, ``region`` all that the network saw.
    """
    sample = outcome.sample
    assert sample.source is not None
    assert sample.mask is not None
    if outcome.at_network_size:
        everything = regions.whole((kept.image.shape[0], kept.image.shape[1]))
        alpha = None if sample.alpha is None else np.full(everything.shape, 255, np.uint8)
        return Composite(kept.image, alpha, everything)
    mask = sample.mask & outcome.region.footprint(sample.mask.shape)
    shown = mask if how == "mask" else regions.whole(mask.shape)
    edited = colour.from_srgb(kept.image, sample.profile)
    pixels = outcome.region.composite(sample.source, edited, shown, sample.alpha)
    fades = sample.alpha is not None and outcome.region.feather
    weights = outcome.region.weights(shown) if fades else None
    return Composite(pixels, regions.opaque_inside(sample.alpha, mask, weights), mask)


def _encode(outcome: Outcome, kept: KeptCandidate, spec: WriteSpec) -> _Encoded:
    made = composite(outcome, kept, spec.composite)
    profile = None if outcome.at_network_size else outcome.sample.profile
    data = codec.encode(made.pixels, spec.image_format, alpha=made.alpha, profile=profile)
    size = (made.pixels.shape[0], made.pixels.shape[1])
    if outcome.at_network_size:
        return _Encoded(data, 0, size)
    assert outcome.sample.source is not None
    changed = regions.changed_outside(outcome.sample.source, _read_back(data, made.pixels), made.mask)
    if changed and spec.composite == "mask" and spec.image_format != "jpeg":
        raise EditError(f"{changed} pixels outside the mask changed while the image was encoded")
    return _Encoded(data, changed, size)


def _read_back(data: bytes, written: Pixels) -> Pixels:
    return codec.decode_output(data, written.shape[1], written.shape[0]).pixels


def _error_columns(failure: Failure) -> dict[str, Any]:
    return {
        "status": failure.status,
        "error_type": failure.type,
        "error_message": failure.message,
        "error_stage": failure.stage,
    }
