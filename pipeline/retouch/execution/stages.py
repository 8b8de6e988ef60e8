"""Decode and write: what happens to a block of rows before and after the engine. Knows neither torch nor Ray."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from retouch import plugins, storage, telemetry
from retouch.errors import EditError, LeaseLost
from retouch.execution import timeouts
from retouch.execution.outcomes import KeptCandidate, Outcome, lost_row, pack_rows, unpack_rows
from retouch.execution.specs import WriteSpec
from retouch.imaging import codec
from retouch.manifests import deferred_images
from retouch.manifests.decode import DecodeSpec, decode, timed_out
from retouch.manifests.samples import Failure, Sample
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
        lambda request, loss: Sample(request["key"], request["fingerprint"], failure=lost_row(loss, "decode")),
    )
    kept = [name for name in table.column_names if name not in REQUEST_COLUMNS and name != "fingerprint"]
    return pack_rows(table.select(kept), samples)


def _decode_all(requests: Sequence[Mapping[str, Any]], spec: DecodeSpec) -> list[Sample]:
    return timeouts.each(
        requests,
        lambda request: decode(request, spec),
        threads=DECODE_THREADS,
        seconds=spec.seconds,
        late=lambda request: timed_out(request, spec),
    )


def _block_seconds(spec: DecodeSpec, rows: int) -> float | None:
    """The deadline of a block, for what not even a thread's deadline ends: a decoder that keeps the interpreter."""
    return None if spec.seconds is None else spec.seconds * (rows // DECODE_THREADS + 2)


@telemetry.timed("stage_seconds.write")
def write_block(table: pa.Table, spec: WriteSpec) -> pa.Table:
    """Lay down a block's images, then its rows of results in one file; returns those rows.

    Writing the same answers again, as a retried task does, gives the same files.
    """
    answers: list[Outcome] = unpack_rows(table)
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
    path = results.write_block(spec.output, rows, epoch=spec.epoch)
    try:
        lease.check(spec.output, spec.epoch)
    except LeaseLost:
        storage.delete(storage.join(spec.output, path))
        raise


def _begun(answer: Outcome) -> dict[str, Any]:
    return {
        "key": answer.sample.key,
        "fingerprint": answer.sample.fingerprint,
        "attempts": answer.attempts,
        "edit_seconds": answer.edit_seconds,
    }


def _lost(answer: Outcome, loss: Loss) -> dict[str, Any]:
    return {**_begun(answer), **_failed(lost_row(loss, "write"))}


def _record(answer: Outcome, spec: WriteSpec, sink: Sink) -> dict[str, Any]:
    """The results row of an answer, its image written. A fault in composing or encoding is the row's failure."""
    record = _begun(answer)
    if answer.failure is None or answer.kept:
        try:
            encoded = [_encode(answer, kept, spec) for kept in answer.kept]
        except Exception as error:
            return {**record, **_failed(Failure.of(error, "encode"))}
        record |= _written(answer, encoded, spec, sink)
    return {**record, **(_failed(answer.failure) if answer.failure else {"status": SUCCESS})}


def _written(answer: Outcome, encoded: Sequence[tuple[bytes, int]], spec: WriteSpec, sink: Sink) -> dict[str, Any]:
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


def composed(answer: Outcome, kept: KeptCandidate, how: Literal["mask", "region"] = "mask") -> Composed:
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


def _encode(answer: Outcome, kept: KeptCandidate, spec: WriteSpec) -> tuple[bytes, int]:
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
