"""Run one row of a finished run again and compare the result with the recorded one (``retouch row``).

The row runs alone in this process, with the run's batch size, into a temporary folder. The output is not written to.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import plugins, storage
from retouch.errors import (
    ConfigError,
    DeadlineExceeded,
    LoadError,
    ManifestError,
    ObjectMissing,
    OutputError,
    WorkerLost,
)
from retouch.execution.executors import local
from retouch.execution.plan import LIBRARIES, make_plan
from retouch.imaging import codec
from retouch.jobs.config import EditJob, parse_job
from retouch.jobs.identity import job_identity, recorded_identity
from retouch.jobs.overrides import apply_overrides
from retouch.manifests import deferred_images, reader
from retouch.manifests.fingerprints import with_fingerprints
from retouch.models import weights
from retouch.outputs import image_paths, results
from retouch.outputs.run_record import RUN_FILE, differences, read_run, version_of
from retouch.redaction import MASK

log = logging.getLogger(__name__)

# Levels of 255: the effect of another device's or library's rounding on the same edit. If rounding sends the sampling
# along another path, which thirty guided steps amplify, the images differ visibly, by tens of levels.
TOLERANCE: Final = 2
IDENTICAL: Final = "identical"
WITHIN_TOLERANCE: Final = "within tolerance"
DIFFERENT: Final = "different"
_DANGEROUS: Final = (WorkerLost.__name__, DeadlineExceeded.__name__)
_COLUMNS: Final = (
    *("key", "fingerprint", "status", "error_type", "error_message", "output", "sha256", "candidate"),
    *("width", "height"),
)


@dataclass(frozen=True)
class Rerun:
    """Comparison of a row's result now with that of the run."""

    key: str
    verdict: str  # IDENTICAL, WITHIN_TOLERANCE or DIFFERENT
    detail: str
    changes: tuple[str, ...]  # what determines the result and has changed since the run
    image: bytes | None  # the best candidate's file; None if the row failed

    @property
    def reproduced(self) -> bool:
        """Whether the result is the same, bit for bit or up to rounding."""
        return self.verdict != DIFFERENT

    def text(self) -> str:
        """Return the verdict, and what has changed since the run, for people."""
        lines = [f"{self.key}: {self.verdict}: {self.detail}"]
        return "\n".join([*lines, *([f"changed since the run: {'; '.join(self.changes)}"] if self.changes else [])])


def rerun(output: str, key: str, overrides: Sequence[str] = ()) -> Rerun:
    """Run a row again and compare the results.

    Args:
        output: a run's output folder.
        key: of a row that has a result there.
        overrides: ``a.b=value`` over the recorded job, for addresses that have moved, or that held credentials, which
            are not recorded.

    Raises:
        OutputError: the output has no run, or no result for this key.
        StopRun: the manifest, the weights or a plug-in is missing, or the manifest no longer has the row.
    """
    record = read_run(output)
    result = _recorded_row(output, key)
    if result["error_type"] in _DANGEROUS:
        error = result["error_type"]
        log.warning("row %s: failed with %s in the run; it may crash or block this process too", key, error)
    origin = storage.join(output, RUN_FILE)
    job = _edit_job(apply_overrides(record["job"], overrides), origin)
    _refuse_hidden(job, origin)
    table = reader.read(job.manifests, defer_images=True).table
    row = deferred_images.load_deferred(table.filter(pc.equal(table["key"], key)))
    if not row.num_rows:
        raise ManifestError(f"the manifest of {output} no longer has row {key!r}, so it cannot be run again")
    changes = tuple(_changes(record, job, row, result["fingerprint"]))
    with tempfile.TemporaryDirectory(prefix="retouch-row-") as folder:
        again = _run(job, row, folder)
        files = [image_paths.read_image(f"{folder}/out", address) for address, _ in _images(again)]
    verdict, detail, notes = _compare(output, result, again, files)
    return Rerun(key, verdict, detail, (*notes, *changes), files[0] if files else None)


def _recorded_row(output: str, key: str) -> dict[str, Any]:
    table = results.read(output, [*_COLUMNS, "runners_up"])
    found = table.filter(pc.equal(table["key"], key)).to_pylist()
    if found:
        result: dict[str, Any] = found[0]
        return result
    if key in results.read_requests(output)["key"].to_pylist():
        raise OutputError(f"{output} has no result for row {key!r} yet; run the job again to resume")
    raise OutputError(f"{output} has no row {key!r}; the keys are in {output}/{results.REQUESTS_FILE}")


def _edit_job(data: dict[str, Any], origin: str) -> EditJob:
    job = parse_job(data, origin)
    if not isinstance(job, EditJob):
        raise OutputError(f"{origin} is of a job of kind {job.kind}, which has no rows")
    return job


def _refuse_hidden(job: EditJob, origin: str) -> None:
    recorded = {"manifest": job.manifest, "editor.weights": job.editor.weights}
    if hidden := [name for name, address in recorded.items() if MASK in str(address)]:
        again = " ".join(f"--set {name}=..." for name in hidden)
        names = " and ".join(hidden)
        raise ConfigError(f"{origin} records no credentials: pass the address of {names} again, with {again}")


def _run(job: EditJob, request: pa.Table, folder: str) -> dict[str, Any]:
    """Run the row and return its result row; its images are below ``folder``/out."""
    pq.write_table(request, f"{folder}/row.parquet")
    alone = job.model_copy(
        update={
            "manifest": f"{folder}/row.parquet",
            "output": f"{folder}/out",
            "sink": "files",  # files have the same bytes in all sinks
            "latents": None,  # a cache changes no pixel, and would be written to
        }
    )
    blocks = list(local.execute(make_plan(alone)))
    result: dict[str, Any] = results.read(alone.output).to_pylist()[0] if blocks else {}
    return result


def _changes(record: Mapping[str, Any], job: EditJob, row: pa.Table, fingerprint: str) -> Iterator[str]:
    """Yield what determines the row's result and has changed since the run, the likeliest causes first."""
    editor: Any = plugins.find("editors", job.editor.name)
    sha256 = weights.resolve(job.editor.weights).sha256
    recorded = record["decides"]
    yield from differences(recorded, job_identity(job, sha256))
    before = record.get("editor_version", editor.version)
    if before != editor.version:
        yield f"editor {job.editor.name}: version {before} -> {editor.version}"
    # With the run's identity, a fingerprint that still differs is due to the row or its files.
    decides = {"weights_sha256": sha256, **recorded}
    identity = recorded_identity({**record, "editor_version": before, "decides": decides})
    if with_fingerprints(row, identity)["fingerprint"].to_pylist() != [fingerprint]:
        yield "the manifest's row, or a file that it names"
    yield from (f"{name} {old} -> {new}" for name, old, new in _versions(record) if old != new)


def _versions(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    recorded = {"retouch": record.get("retouch"), **record.get("versions", {})}
    for name in ("retouch", *LIBRARIES):
        if recorded.get(name) is not None:
            yield name, recorded[name], version_of(name)


def _images(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return address and recorded sha256 of a row's images, best first."""
    named = [result, *(result.get("runners_up") or ())]
    return [(image["output"], image["sha256"]) for image in named if image.get("output")]


def _compare(
    output: str, result: Mapping[str, Any], again: Mapping[str, Any], files: Sequence[bytes]
) -> tuple[str, str, list[str]]:
    """Return verdict, detail, and notes about output files that differ from their record."""
    if _outcome(result) != _outcome(again):
        return DIFFERENT, f"{_outcome(result)} in the run, {_outcome(again)} now{_reason(again)}", []
    recorded = _images(result)
    if len(recorded) != len(files):
        return DIFFERENT, f"{len(recorded)} images in the run, {len(files)} now", []
    if not recorded:
        return IDENTICAL, f"{_outcome(result)} again", []
    found = [_compare_image(output, result, *image, data) for image, data in zip(recorded, files, strict=True)]
    ranked = (DIFFERENT, WITHIN_TOLERANCE, IDENTICAL)
    worst = min(range(len(found)), key=lambda rank: ranked.index(found[rank][0]))
    verdict, detail, _ = found[worst]
    candidate = "" if result["candidate"] == again["candidate"] else "; another candidate is the best"
    which = f"image {worst + 1} of {len(found)}: " if worst else ""
    return verdict, f"{which}{detail}{candidate}", [note for *_, note in found if note]


def _compare_image(
    output: str, result: Mapping[str, Any], address: str, sha256: str, data: bytes
) -> tuple[str, str, str]:
    """Return verdict and detail of one image, and a note if the output's file differs from its record."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        stored = image_paths.read_image(output, address)
        note = "" if hashlib.sha256(stored).hexdigest() == sha256 else f"{address} differs from its recorded sha256"
        if digest == sha256 and not note:
            return IDENTICAL, f"sha256 {digest}", ""
        size = result["width"], result["height"]
        return *_compare_pixels(codec.decode_output(stored, *size), codec.decode_output(data, *size)), note
    except ObjectMissing:
        return DIFFERENT, f"{address} is missing in the output", ""
    except LoadError as error:
        return DIFFERENT, f"{address} cannot be read: {error}", ""


def _compare_pixels(before: codec.Image, after: codec.Image) -> tuple[str, str]:
    one, other = (_planes(image) for image in (before, after))
    if one.shape != other.shape:
        sizes = " and ".join(f"{planes.shape[1]}x{planes.shape[0]} of {planes.shape[2]}" for planes in (one, other))
        return DIFFERENT, f"the images differ in size or channels: {sizes}"
    levels = (np.maximum(one, other) - np.minimum(one, other)).max(axis=2)
    largest, changed = int(levels.max()), int((levels > 0).sum())
    detail = f"{changed} of {levels.size} pixels differ, by at most {largest} of 255 levels (tolerance: {TOLERANCE})"
    return WITHIN_TOLERANCE if largest <= TOLERANCE else DIFFERENT, detail


def _planes(image: codec.Image) -> Any:
    """Return the image as [H, W, 3] uint8, with an alpha channel as [H, W, 4]."""
    return image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])


def _outcome(result: Mapping[str, Any]) -> str:
    return f"{result['status']} ({result['error_type']})" if result["error_type"] else str(result["status"])


def _reason(result: Mapping[str, Any]) -> str:
    return f": {result['error_message']}" if result["error_message"] else ""
