"""One row run again from its run's record, in this process, and held against its answer. Writes nothing to the output.

The row goes the way of ``--executor local``, alone, at the run's batch shape: to a scratch folder, which is forgotten.
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
from retouch.outputs import image_paths as addresses
from retouch.outputs import results
from retouch.outputs.run_record import RUN_FILE, differences, read_run, version_of
from retouch.redaction import MASK

log = logging.getLogger(__name__)

# Of 255 levels: what another device's or library's rounding leaves of an edit that took the same way. An edit that took
# another way (thirty guided steps magnify rounding) differs by tens, and is a different one to whoever looks at it.
TOLERANCE: Final = 2
IDENTICAL: Final = "identical"
WITHIN_TOLERANCE: Final = "within tolerance"
DIFFERENT: Final = "different"
_DEADLY: Final = (WorkerLost.__name__, DeadlineExceeded.__name__)
_COLUMNS: Final = ("key", "fingerprint", "status", "error_type", "error_message", "output", "sha256", "candidate")


@dataclass(frozen=True)
class Rerun:
    """What came of a row this time, beside what came of it in the run."""

    key: str
    verdict: str  # IDENTICAL, WITHIN_TOLERANCE or DIFFERENT
    detail: str
    changes: tuple[str, ...]  # what decided the row then and is another now
    image: bytes | None  # the best candidate's file; None where the row failed

    @property
    def reproduced(self) -> bool:
        """Whether the row came out as it was, to the bit or to what rounding explains."""
        return self.verdict != DIFFERENT

    def text(self) -> str:
        """For people: the verdict, and where anything has changed since the run, what."""
        lines = [f"{self.key}: {self.verdict}: {self.detail}"]
        return "\n".join([*lines, *([f"changed since the run: {'; '.join(self.changes)}"] if self.changes else [])])


def rerun(output: str, key: str, overrides: Sequence[str] = ()) -> Rerun:
    """Run a row again and compare.

    Args:
        output: a run's output folder.
        key: of a row that is answered there.
        overrides: ``a.b=value`` over the recorded job: where its addresses have moved, or held credentials, which no
            record keeps.

    Raises:
        OutputError: there is no run, or no answer of this key.
        StopRun: its manifest, weights or plug-ins are not to be had, or the manifest has no such row any more.
    """
    record = read_run(output)
    answer = _answer(output, key)
    if answer["error_type"] in _DEADLY:
        log.warning("row %s ended with %s in the run, and may end this process, too", key, answer["error_type"])
    origin = storage.join(output, RUN_FILE)
    job = _edit_job(apply_overrides(record["job"], overrides), origin)
    _refuse_hidden(job, origin)
    table = reader.read(job.manifests, defer_images=True).table
    row = deferred_images.load_deferred(table.filter(pc.equal(table["key"], key)))
    if not row.num_rows:
        raise ManifestError(f"the manifest of {output} has no row {key!r} any more, so it cannot be run again")
    changes = tuple(_changes(record, job, row, answer["fingerprint"]))
    with tempfile.TemporaryDirectory(prefix="retouch-row-") as folder:
        again = _run(job, row, folder)
        files = [addresses.read_image(f"{folder}/out", address) for address, _ in _images(again)]
    verdict, detail, notes = _compared(output, answer, again, files)
    return Rerun(key, verdict, detail, (*notes, *changes), files[0] if files else None)


def _answer(output: str, key: str) -> dict[str, Any]:
    table = results.read(output, [*_COLUMNS, "runners_up"])
    found = table.filter(pc.equal(table["key"], key)).to_pylist()
    if found:
        answer: dict[str, Any] = found[0]
        return answer
    if key in results.read_requests(output)["key"].to_pylist():
        raise OutputError(f"{output} has no answer to row {key!r} yet; run its job again, it goes on where it stopped")
    raise OutputError(f"{output} has no row {key!r}; the keys are in {output}/{results.REQUESTS_FILE}")


def _edit_job(data: dict[str, Any], origin: str) -> EditJob:
    job = parse_job(data, origin)
    if not isinstance(job, EditJob):
        raise OutputError(f"{origin} is of a job of kind {job.kind}, which has no rows")
    return job


def _refuse_hidden(job: EditJob, origin: str) -> None:
    addresses = {"manifest": job.manifest, "editor.weights": job.editor.weights}
    if hidden := [name for name, address in addresses.items() if MASK in str(address)]:
        again = " ".join(f"--set {name}=..." for name in hidden)
        raise ConfigError(f"{origin} keeps no credentials: give the address of {' and '.join(hidden)} again, {again}")


def _run(job: EditJob, row: pa.Table, folder: str) -> dict[str, Any]:
    """The row's answer, its images below ``folder``/out."""
    pq.write_table(row, f"{folder}/row.parquet")
    alone = job.model_copy(
        update={
            "manifest": f"{folder}/row.parquet",
            "output": f"{folder}/out",
            "sink": "files",  # the bytes are the same in all
            "latents": None,  # they change no pixel, and would be written
        }
    )
    blocks = list(local.execute(make_plan(alone)))
    answer: dict[str, Any] = results.read(alone.output).to_pylist()[0] if blocks else {}
    return answer


def _changes(record: Mapping[str, Any], job: EditJob, row: pa.Table, fingerprint: str) -> Iterator[str]:
    """What decided the row in the run and is another now, in the order in which one would look for it."""
    editor: Any = plugins.find("editors", job.editor.name)
    sha256 = weights.resolve(job.editor.weights).sha256
    then = record["decides"]
    yield from differences(then, job_identity(job, sha256))
    before = record.get("editor_version", editor.version)
    if before != editor.version:
        yield f"editor {job.editor.name}: version {before} -> {editor.version}"
    # As the run had all but the row: what still differs is the row.
    ran = recorded_identity({**record, "editor_version": before, "decides": {"weights_sha256": sha256, **then}})
    if with_fingerprints(row, ran)["fingerprint"].to_pylist() != [fingerprint]:
        yield "the manifest's row, or a file that it names"
    yield from (f"{name} {old} -> {new}" for name, old, new in _versions(record) if old != new)


def _versions(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    recorded = {"retouch": record.get("retouch"), **record.get("versions", {})}
    for name in ("retouch", *LIBRARIES):
        if recorded.get(name) is not None:
            yield name, recorded[name], version_of(name)


def _images(answer: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Address and recorded sha256 of a row's images, best first."""
    named = [answer, *(answer.get("runners_up") or ())]
    return [(image["output"], image["sha256"]) for image in named if image.get("output")]


def _compared(
    output: str, answer: Mapping[str, Any], again: Mapping[str, Any], files: Sequence[bytes]
) -> tuple[str, str, list[str]]:
    """Verdict, detail, and what is amiss with the output's own files."""
    if _said(answer) != _said(again):
        return DIFFERENT, f"{_said(answer)} in the run, {_said(again)} now{_reason(again)}", []
    recorded = _images(answer)
    if len(recorded) != len(files):
        return DIFFERENT, f"{len(recorded)} images in the run, {len(files)} now", []
    if not recorded:
        return IDENTICAL, f"{_said(answer)} again", []
    found = [_compared_image(output, *image, data) for image, data in zip(recorded, files, strict=True)]
    ranked = (DIFFERENT, WITHIN_TOLERANCE, IDENTICAL)
    worst = min(range(len(found)), key=lambda rank: ranked.index(found[rank][0]))
    verdict, detail, _ = found[worst]
    candidate = "" if answer["candidate"] == again["candidate"] else "; the best candidate is another one"
    which = f"image {worst + 1} of {len(found)}: " if worst else ""
    return verdict, f"{which}{detail}{candidate}", [note for *_, note in found if note]


def _compared_image(output: str, address: str, sha256: str, data: bytes) -> tuple[str, str, str]:
    """Verdict and detail of one image, and what is amiss with the file that the output has of it."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        stored = addresses.read_image(output, address)
        note = "" if hashlib.sha256(stored).hexdigest() == sha256 else f"{address} is not the file that was recorded"
        if digest == sha256 and not note:
            return IDENTICAL, f"sha256 {digest}", ""
        return *_compared_pixels(codec.decode_image(stored, "output"), codec.decode_image(data, "output")), note
    except ObjectMissing:
        return DIFFERENT, f"{address} is missing in the output", ""
    except LoadError as error:
        return DIFFERENT, f"{address} cannot be read: {error}", ""


def _compared_pixels(before: codec.Image, after: codec.Image) -> tuple[str, str]:
    one, other = (_planes(image) for image in (before, after))
    if one.shape != other.shape:
        sizes = " and ".join(f"{planes.shape[1]}x{planes.shape[0]} of {planes.shape[2]}" for planes in (one, other))
        return DIFFERENT, f"the images have other sizes or channels: {sizes}"
    levels = (np.maximum(one, other) - np.minimum(one, other)).max(axis=2)
    largest, changed = int(levels.max()), int((levels > 0).sum())
    detail = f"{changed} of {levels.size} pixels differ, by at most {largest} of 255 levels ({TOLERANCE} are tolerated)"
    return WITHIN_TOLERANCE if largest <= TOLERANCE else DIFFERENT, detail


def _planes(image: codec.Image) -> Any:
    """[H, W, 3], or with an alpha channel [H, W, 4], uint8."""
    return image.pixels if image.alpha is None else np.dstack([image.pixels, image.alpha])


def _said(answer: Mapping[str, Any]) -> str:
    return f"{answer['status']} ({answer['error_type']})" if answer["error_type"] else str(answer["status"])


def _reason(answer: Mapping[str, Any]) -> str:
    return f": {answer['error_message']}" if answer["error_message"] else ""
