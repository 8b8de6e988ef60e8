"""What is to be done: the job resolved, its rows fingerprinted, those already answered left out. Starts nothing."""

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
from retouch.execution import quality_gate
from retouch.execution.specs import EngineSpec, WriteSpec
from retouch.jobs.config import EditJob
from retouch.jobs.identity import job_identity, pixel_identity
from retouch.manifests import reader, row_sets
from retouch.manifests.decode import DecodeSpec
from retouch.models import weights
from retouch.outputs import carry_over, results
from retouch.outputs.run_record import RUN_FILE, differences, read_run, version_of
from retouch.redaction import redacted_all
from retouch.schema import RESULT_FIELDS, results_schema
from retouch.validation import nearest

LIBRARIES: Final = ("torch", "diffusers", "open_clip_torch", "ray", "pyarrow")  # whose versions a run records
MOST_ROWS_A_BLOCK: Final = 64  # what is lost and done again when a worker dies,
MOST_BLOCKS: Final = 4096  # unless there would be more blocks than that: each costs the scheduler some milliseconds
# Fewer, and the last actor to finish keeps the others waiting, and a short run's first image waits for many passes.
BLOCKS_AN_ACTOR: Final = 8


@dataclass(frozen=True)
class Plan:
    """A job with everything looked up that must be right before a device is taken."""

    job: EditJob
    engine: EngineSpec
    decode: DecodeSpec
    write: WriteSpec
    todo: pa.Table  # manifest columns and ``fingerprint`` of the rows left
    requests: pa.Table  # key and fingerprint of every row asked for
    weights: Mapping[str, str]  # role to sha256
    whole: bool = True  # the whole manifest is asked for, not its first rows
    caller: tuple[str, ...] = ()  # the caller's columns of the results
    most_actors: int | None = None  # of the pool, whatever the job and the cluster have

    @property
    def total(self) -> int:
        """Rows asked for."""
        return int(self.requests.num_rows)

    @property
    def left(self) -> int:
        """Rows not answered yet."""
        return int(self.todo.num_rows)

    def blocks(self, actors: int) -> Iterator[pa.Table]:
        """The rows left, in blocks: the unit of loss, retry and commit."""
        rows = self.rows_per_block(actors)
        for start in range(0, self.left, rows):
            yield self.todo.slice(start, rows)

    def rows_per_block(self, actors: int) -> int:
        """Rows of all blocks but the last."""
        asked = self.job.ray.rows_per_block
        if asked != "auto":
            return asked
        a_pass = max(1, self.job.ray.batch_size // self.job.candidates)
        even = -(-self.left // (actors * BLOCKS_AN_ACTOR))
        # A multiple of what a pass holds, so that no pass but the last one of a block is padded.
        most = max(MOST_ROWS_A_BLOCK, -(-self.left // MOST_BLOCKS))
        return max(1, min(even, most) // a_pass) * a_pass


def make_plan(
    job: EditJob, *, limit: int | None = None, retry_failed: bool = False, retry_errors: Collection[str] = ()
) -> Plan:
    """Look everything up.

    Args:
        job: the job.
        limit: answer at most the manifest's first ``limit`` rows.
        retry_failed: rows answered with a failure are left to be done.
        retry_errors: so are those whose ``error_type`` is one of these.

    Raises:
        StopRun: the job, its manifest, weights or plug-ins are wrong; nothing was written.
    """
    editor: Any = plugins.find("editors", job.editor.name)
    plugins.find("sinks", job.sink)
    params = plugins.check_params(editor.Params, job.editor.params, "editor.params")
    resolved = weights.resolve(job.editor.weights)
    columns = _score_columns(job, editor)
    rows = reader.read(job.manifests, far=True)
    table = rows.table if limit is None else rows.table.slice(0, limit)
    table = reader.with_fingerprints(table, pixel_identity(job, editor.version, resolved.sha256))
    caller = reader.callers_of(table.schema)
    _no_clash(caller, columns)
    again = carry_over.retry_filter(retry_failed, retry_errors, tries(job))
    todo = row_sets.without(table, _standing(job.output, again))
    return Plan(
        job=job,
        engine=replace(engine_spec(job), weights=weights.pinned(job.editor.weights, resolved)),
        decode=DecodeSpec(
            inputs=frozenset(editor.inputs),
            mask=job.mask,
            needs=getattr(params, "needs", frozenset()),
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


def claimed(plan: Plan, epoch: int) -> Plan:
    """The plan under the lease of its output; without the rows that another run answered since the plan was made."""
    write = replace(plan.write, epoch=epoch)
    if results.next_epoch(plan.job.output) == plan.write.epoch:  # none has written since
        return replace(plan, write=write)
    since = {file for file in results.files(plan.job.output) if results.epoch_of(file) >= plan.write.epoch}
    return replace(plan, write=write, todo=row_sets.without(plan.todo, results.read_done(plan.job.output, since)))


def tries(job: EditJob) -> int:
    """Candidates that a row may take."""
    return job.candidates * quality_gate.budget(job.quality)


def _standing(output: str, again: carry_over.RetryFilter) -> pa.Table:
    """The answers that are not asked again."""
    table = results.read(output, ["key", "fingerprint", "status", "error_type", "attempts"])
    return table.filter(pc.invert(again(table)))


def engine_spec(job: EditJob) -> EngineSpec:
    """What the job asks of an engine."""
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
        quality=job.quality,
        latents=job.latents,
        output=job.output,
        seconds=job.deadlines.edit,
    )


def refuse_another_job(plan: Plan) -> None:
    """Raise OutputError, with a field-by-field difference, where the output holds another job's answers."""
    uri = storage.join(plan.job.output, RUN_FILE)
    if not results.files(plan.write.output) or not storage.exists(uri):  # without answers there is nothing to protect
        return
    theirs = redacted_all(read_run(plan.job.output).get("decides", {}))
    changes = list(differences(theirs, job_identity(plan.job, plan.weights)))
    if changes:
        raise OutputError(f"{plan.job.output} holds another job's answers: {'; '.join(changes)}; give another output")


def open_run(plan: Plan) -> None:
    """Write ``run.json`` and the list of requests, or refuse an output that holds another job's answers.

    Raises:
        OutputError: with a field-by-field difference.
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
        "by": _who(),
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
            f"quality.thresholds names {', '.join(unknown)}, which nothing measures{nearest(unknown[0], columns)}; "
            f"measured: {', '.join(columns)}"
        )
    return columns


def _no_clash(caller: pa.Schema, columns: Mapping[str, pa.DataType]) -> None:
    clash = sorted(set(caller.names) & {*RESULT_FIELDS.names, *columns})
    if clash:
        raise ManifestError(f"manifest columns {', '.join(clash)} would hide results columns of that name; rename them")


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
