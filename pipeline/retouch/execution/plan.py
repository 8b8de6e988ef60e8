"""Plan an edit job: resolve what it names, fingerprint its rows, leave out those that are done. Starts nothing."""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from retouch import plugins, storage
from retouch.errors import ConfigError, ManifestError, OutputError
from retouch.execution import outpainting, quality_gate
from retouch.execution.specs import EngineSpec, WriteSpec
from retouch.jobs.config import EditJob
from retouch.jobs.identity import job_identity, pixel_identity
from retouch.manifests import reader, row_sets
from retouch.manifests.decode import DecodeSpec
from retouch.manifests.fingerprints import with_fingerprints
from retouch.models import weights
from retouch.outputs import carry_over, results
from retouch.outputs.run_record import RUN_FILE, differences, read_run, version_of
from retouch.redaction import redacted_all
from retouch.schema import RESULT_FIELDS, results_schema
from retouch.validation import nearest

LIBRARIES: Final = ("torch", "diffusers", "open_clip_torch", "ray", "pyarrow")  # whose versions a run records
MAX_ROWS_PER_BLOCK: Final = 64  # rows redone when a worker dies; more if there would be more than MAX_BLOCKS
MAX_BLOCKS: Final = 4096  # each costs the scheduler some milliseconds
# With fewer, the last actor to finish keeps the others waiting, and the first image of a short run comes late.
BLOCKS_PER_ACTOR: Final = 8


@dataclass(frozen=True)
class Plan:
    """A job with everything resolved and checked that can be before a device is used."""

    job: EditJob
    engine: EngineSpec
    decode: DecodeSpec
    write: WriteSpec
    todo: pa.Table  # manifest columns and ``fingerprint`` of the rows that are left
    requests: pa.Table  # key and fingerprint of every row of the job
    weights: Mapping[str, str]  # role to sha256
    whole: bool = True  # False if the job is limited to the first rows of its manifest
    caller: tuple[str, ...] = ()  # columns of the manifest that are passed through to the results
    max_actors: int | None = None  # whatever the job and the cluster allow; None for no limit

    @property
    def total(self) -> int:
        """Rows of the job."""
        return int(self.requests.num_rows)

    @property
    def left(self) -> int:
        """Rows that have no result yet."""
        return int(self.todo.num_rows)

    def blocks(self, actors: int) -> Iterator[pa.Table]:
        """Yield the rows that are left in blocks: the unit of retry and commit."""
        rows = self.rows_per_block(actors)
        for start in range(0, self.left, rows):
            yield self.todo.slice(start, rows)

    def rows_per_block(self, actors: int) -> int:
        """Return the rows of every block but the last."""
        asked = self.job.ray.rows_per_block
        if asked != "auto":
            return asked
        per_pass = max(1, self.job.ray.batch_size // self.job.candidates)
        even = -(-self.left // (actors * BLOCKS_PER_ACTOR))
        # A multiple of the rows of a pass, so that only the last pass of a block is padded.
        most = max(MAX_ROWS_PER_BLOCK, -(-self.left // MAX_BLOCKS))
        return max(1, min(even, most) // per_pass) * per_pass


def make_plan(
    job: EditJob, *, limit: int | None = None, retry_failed: bool = False, retry_errors: Collection[str] = ()
) -> Plan:
    """Return the plan of a job.

    Args:
        job: the job.
        limit: plan only the manifest's first ``limit`` rows.
        retry_failed: include rows that failed.
        retry_errors: include rows that failed with one of these ``error_type``.

    Raises:
        StopRun: the job, its manifest, weights or plug-ins are wrong; nothing was written.
    """
    editor: Any = plugins.find("editors", job.editor.name)
    plugins.find("sinks", job.sink)
    params = plugins.check_params(editor.Params, job.editor.params, "editor.params")
    if job.canvas is not None:
        outpainting.refuse_unfit(job.editor.name, editor)
    resolved = weights.resolve(job.editor.weights)
    columns = _score_columns(job, editor)
    rows = reader.read(job.manifests, defer_images=True)
    table = rows.table if limit is None else rows.table.slice(0, limit)
    table = with_fingerprints(table, pixel_identity(job, editor.version, resolved.sha256))
    needs: frozenset[str] = getattr(params, "needs", frozenset())
    if job.canvas is not None and "exemplar" in needs and "exemplar" not in table.column_names:
        raise ConfigError(
            f"canvas: editor {job.editor.name} paints what an exemplar shows, and the manifest has none; give it a "
            "column exemplar, or take an editor that paints by text"
        )
    caller = reader.caller_schema(table.schema)
    _check_names(caller, columns)
    retries = carry_over.retry_filter(retry_failed, retry_errors, max_candidates(job))
    todo = row_sets.without(table, _done(job.output, retries))
    return Plan(
        job=job,
        engine=replace(engine_spec(job), weights=weights.pinned(job.editor.weights, resolved)),
        decode=DecodeSpec(
            inputs=frozenset(editor.inputs),
            mask=job.mask,
            images=job.images,
            canvas=job.canvas,
            needs=needs,
            params=job.editor.params,
            params_type=editor.Params if "params" in table.column_names else None,
            output=job.output,
            seconds=job.deadlines.decode,
        ),
        write=WriteSpec(
            output=job.output,
            schema=results_schema(columns, caller),
            epoch=results.next_epoch(job.output),
            image_format=job.image_format,
            sink=job.sink,
            composite=job.composite,
            seconds=job.deadlines.write,
        ),
        todo=todo,
        requests=row_sets.of(table),
        weights=resolved.sha256,
        whole=limit is None,
        caller=tuple(caller.names),
    )


def plan_under_lease(plan: Plan, epoch: int) -> Plan:
    """Return the plan with the epoch of the lease, without rows that another run finished since the plan was made."""
    write = replace(plan.write, epoch=epoch)
    if results.next_epoch(plan.job.output) == plan.write.epoch:  # nothing was written since
        return replace(plan, write=write)
    since = {file for file in results.files(plan.job.output) if results.epoch_of(file) >= plan.write.epoch}
    return replace(plan, write=write, todo=row_sets.without(plan.todo, results.read_done(plan.job.output, since)))


def max_candidates(job: EditJob) -> int:
    """Return how many candidates a row may have, over all rounds."""
    return job.candidates * quality_gate.budget(job.quality)


def _done(output: str, retries: carry_over.RetryFilter) -> pa.Table:
    """Return the results of rows that are not done again."""
    table = results.read(output, ["key", "fingerprint", "status", "error_type", "attempts"])
    return table.filter(pc.invert(retries(table)))


def engine_spec(job: EditJob) -> EngineSpec:
    """Return the engine's settings of a job."""
    return EngineSpec(
        editor=job.editor.name,
        params=job.editor.params,
        weights=job.editor.weights,
        metrics=job.metrics,
        seed=job.seed,
        candidates=job.candidates,
        keep=job.keep,
        batch_size=job.ray.batch_size,
        fit=job.fit,
        context=job.mask.context,
        feather=job.mask.feather,
        output_size=job.output_size,
        align=job.align,
        canvas=job.canvas,
        quality=job.quality,
        latents=job.latents,
        output=job.output,
        seconds=job.deadlines.edit,
    )


def refuse_another_job(plan: Plan) -> None:
    """Raise OutputError, with the fields that differ, if the output holds results of another job."""
    uri = storage.join(plan.job.output, RUN_FILE)
    if not results.files(plan.write.output) or not storage.exists(uri):  # without results there is nothing to protect
        return
    recorded = redacted_all(read_run(plan.job.output).get("decides", {}))
    changes = list(differences(recorded, job_identity(plan.job, plan.weights)))
    if changes:
        raise OutputError(f"{plan.job.output} holds results of another job: {'; '.join(changes)}; give another output")


def open_run(plan: Plan) -> None:
    """Write ``run.json`` and the list of requests.

    Raises:
        OutputError: the output holds results of another job.
    """
    refuse_another_job(plan)
    editor: Any = plugins.find("editors", plan.job.editor.name)
    record = {
        "retouch": version_of("retouch"),
        "decides": job_identity(plan.job, plan.weights),
        "job": redacted_all(plan.job.model_dump(mode="json")),
        "editor_version": editor.version,
        "rows": plan.total,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": _user(),
        "versions": {name: version_of(name) for name in LIBRARIES},
        "python": platform.python_version(),
    }
    storage.write_bytes(storage.join(plan.job.output, RUN_FILE), json.dumps(record, indent=1).encode())
    results.write_requests(plan.job.output, plan.requests, whole=plan.whole)


def _score_columns(job: EditJob, editor: Any) -> dict[str, pa.DataType]:
    columns = plugins.column_types(editor.columns)
    for metric in job.metrics:
        found: Any = plugins.find("metrics", metric.name)
        if metric.weights is not None:
            weights.resolve(metric.weights)
        columns |= plugins.column_types(found.columns)
    unknown = sorted(set(job.quality.thresholds) - set(columns))
    if unknown:
        raise ConfigError(
            f"quality.thresholds names {', '.join(unknown)}, which no metric of the job measures"
            f"{nearest(unknown[0], columns)}; "
            f"measured: {', '.join(columns)}"
        )
    return columns


def _check_names(caller: pa.Schema, columns: Mapping[str, pa.DataType]) -> None:
    clash = sorted(set(caller.names) & {*RESULT_FIELDS.names, *columns})
    if clash:
        raise ManifestError(f"manifest columns {', '.join(clash)} would hide results columns of that name; rename them")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
