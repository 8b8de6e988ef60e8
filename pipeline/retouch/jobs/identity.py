"""What decides a run's results: the job fields and weights behind its rows, and those behind its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from retouch import plugins
from retouch.errors import OutputError, PluginError
from retouch.jobs.config import EditJob, parse_job
from retouch.redaction import redacted_all

# Fields of an edit job that decide its results, with ray.batch_size. The others may change between two runs on one
# output.
IDENTITY_FIELDS: Final = (
    "name",
    "manifest",
    "seed",
    "editor",
    "candidates",
    "keep",
    "metrics",
    "quality",
    "image_format",
    "mask",
    "fit",
    "composite",
    "output_size",
    "align",
    "canvas",
    "sink",
)
# Fields of ``quality`` that decide nothing: more rounds add candidates to rows that missed the thresholds, and change
# no row that kept them.
_NOT_IN_QUALITY: Final = {"rounds"}
# Fields that are younger than outputs that resume: at their defaults they are in no identity.
_YOUNGER: Final = ("output_size", "align", "canvas")


def job_identity(job: EditJob, weights_sha256: Mapping[str, str]) -> dict[str, Any]:
    """Return what all runs on one output must have in common, credentials redacted."""
    dumped = job.model_dump(mode="json", include=set(IDENTITY_FIELDS), exclude={"quality": _NOT_IN_QUALITY})
    dumped["mask"] = job.mask.identity()
    for name in set(_YOUNGER) - _younger_fields(job).keys():
        del dumped[name]
    dumped["editor"]["params"] = _without_ignored(job.editor.name, dumped["editor"]["params"])
    found = {**dumped, "ray.batch_size": job.ray.batch_size, "weights_sha256": dict(weights_sha256)}
    return redacted_all(found)  # so that a new signature of the same address does not make another job


def pixel_identity(job: EditJob, editor_version: str, weights_sha256: Mapping[str, str]) -> dict[str, Any]:
    """Return what decides a row's pixels, apart from the row itself; its digest is part of every fingerprint."""
    return {
        "editor": job.editor.name,
        "version": editor_version,
        "params": _without_ignored(job.editor.name, job.editor.params),
        "weights": dict(weights_sha256),
        "seed": job.seed,
        "candidates": job.candidates,
        "keep": job.keep,
        "fit": job.fit,
        "composite": job.composite,
        "mask": job.mask.identity(),
        "image_format": job.image_format,
        "quality": job.quality.model_dump(exclude=_NOT_IN_QUALITY),
        **_younger_fields(job),
        "batch_size": job.ray.batch_size,  # kernels round by shape, and guidance amplifies the difference
    }


def recorded_identity(record: Mapping[str, Any], origin: str = "run.json") -> dict[str, Any]:
    """Return the ``pixel_identity`` of an earlier run from its run record.

    Args:
        record: content of the run's ``run.json``.
        origin: name of the record in errors.

    Raises:
        ConfigError: this version cannot read the recorded job.
        OutputError: the record is of another kind of job.
    """
    then = record["decides"]
    ran = {**record["job"], **{name: then[name] for name in IDENTITY_FIELDS if name in then}}
    ran["ray"] = {**ran.get("ray", {}), **({"batch_size": then["ray.batch_size"]} if "ray.batch_size" in then else {})}
    job = parse_job(ran, origin)
    if not isinstance(job, EditJob):
        raise OutputError(f"{origin} is of a job of kind {job.kind}, which has no rows; give an edit job's output")
    return pixel_identity(job, record.get("editor_version", ""), then.get("weights_sha256", {}))


def _younger_fields(job: EditJob) -> dict[str, Any]:
    """Return the fields of ``_YOUNGER`` that the job sets."""
    values = job.model_dump(include=set(_YOUNGER))
    return {name: value for name, value in values.items() if value != EditJob.model_fields[name].default}


def _without_ignored(editor: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return an editor's params without those that change no pixel, such as the address of a server."""
    try:
        ignored: frozenset[str] = getattr(
            getattr(plugins.find("editors", editor), "Params", None), "decides_nothing", frozenset()
        )
    except PluginError:  # the record of a run with an editor that is not installed here
        return dict(params)
    return {name: value for name, value in params.items() if name not in ignored}
