"""Evaluation jobs: score sets of images, in this process or on Ray, and write ``metrics.json``.

In the output::

    metrics.json            every value with its metric's id, its counts, and the images that were not counted
    rows.parquet            one row per image that exists or should: status, reason, row metrics
    states/, scores/        results of each shard; named by what determines them, so existing ones are not recomputed
    reference/              each set metric's state of the reference; another job may name it as its reference
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console

from retouch import storage
from retouch.errors import ConfigError
from retouch.execution.evaluation import aggregate, metric_states
from retouch.execution.evaluation.image_sets import ImageSet, read_set, with_requests
from retouch.execution.evaluation.metric_states import StoredState
from retouch.execution.evaluation.scorer import LoadedMetric, Scorer, ScoreSpec, Shard, row_metric_id
from retouch.execution.lifecycle import Executor, stop_recorded, write_record
from retouch.jobs.config import EvaluateJob
from retouch.manifests.decode import recorded_spec
from retouch.outputs.event_log import EventLog

METRICS_FILE: Final = "metrics.json"
ROWS_FILE: Final = "rows.parquet"


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation job."""

    name: str
    output: str
    record: Mapping[str, Any]  # metrics.json
    seconds: float


@dataclass(frozen=True)
class _ShardedSet:
    """A set of images in shards, with the addresses of each shard's files."""

    images: ImageSet
    shards: list[Shard]

    def states_of(self, number: int) -> list[str]:
        return [shard.states[number] for shard in self.shards if number in shard.states]


def evaluate(
    job: EvaluateJob, *, executor: Executor = "ray", address: str | None = None, console: Console | None = None
) -> Evaluation:
    """Score the shards that have no results yet, and write the metrics of all of them.

    Raises:
        StopRun: the job is wrong, or no image could be scored.
        Interrupted: stopped early; the same call resumes with the shards that are left.
    """
    console = console or Console(stderr=True)
    started = time.monotonic()
    results = read_set(job.results, job.statuses)
    made_by = dict(results.run.get("job", {}))
    spec = _score_spec(job, made_by)
    if job.row_metrics:
        results = with_requests(results, _manifests(job, made_by))
    scorer = Scorer(spec, _device(executor))
    sources = [_reference(job, loaded) for loaded in scorer.set_metrics]
    sharded_sets: dict[str | None, _ShardedSet] = {
        None: _shard_set("results", job, scorer, results, range(len(sources)))
    }
    for source in dict.fromkeys(source for source in sources if source and not _is_state(source)):
        numbers = [number for number, its in enumerate(sources) if its == source]
        sharded_sets[source] = _shard_set("reference", job, scorer, read_set(source), numbers)
    left = [left for sharded in sharded_sets.values() for shard in sharded.shards if (left := _unfinished(shard))]
    events = EventLog(job.output)
    _score_shards(left, _executor(executor, job, scorer, address), events, f"{job.name}: ", console)
    measured = [_metric_entry(job, number, scorer, sharded_sets, source) for number, source in enumerate(sources)]
    record = {
        "name": job.name,
        "job": job.model_dump(mode="json"),
        "results": aggregate.count_images(results),
        "references": {
            source: aggregate.count_images(sharded.images) for source, sharded in sharded_sets.items() if source
        },
        "metrics": measured,
        **_write_rows(job, scorer, sharded_sets[None]),
    }
    write_record(job.output, METRICS_FILE, record)
    events.write("finished", metrics={metric["name"]: metric["values"] for metric in measured})
    return Evaluation(job.name, job.output, record, time.monotonic() - started)


def _score_shards(
    shards: Sequence[Shard],
    execute: Callable[[Sequence[Shard]], Iterator[str]],
    events: EventLog,
    title: str,
    console: Console,
) -> None:
    events.write("started", shards=len(shards))
    done = 0
    with stop_recorded(events, lambda: f"{done} of {len(shards)} shards done"):
        for name in execute(shards):
            done += 1
            console.print(f"{title}{name} ({done} of {len(shards)})", highlight=False)


def _score_spec(job: EvaluateJob, made_by: Mapping[str, Any]) -> ScoreSpec:
    """Return what to load: weights and masks default to those of the run that made the images."""
    then = recorded_spec(made_by)
    weights, size = made_by.get("editor", {}).get("weights"), made_by.get("output_size", "native")
    return ScoreSpec(job.metrics, job.row_metrics, weights, job.mask or then.mask, then.images, then.canvas, size)


def _manifests(job: EvaluateJob, made_by: Mapping[str, Any]) -> str | list[str]:
    sources = job.manifest or made_by.get("manifest")
    if not sources:
        raise ConfigError(
            f"row_metrics need sources and masks: {job.results} is not a run's output; set manifest in the job"
        )
    return sources if isinstance(sources, str) else list(sources)


def _reference(job: EvaluateJob, loaded: LoadedMetric) -> str | None:
    """Return a metric's reference, images or a stored state; None if the metric needs none."""
    if not loaded.metric.compares:
        return None
    source = job.reference.get(loaded.name) if isinstance(job.reference, dict) else job.reference
    if source is None:
        raise ConfigError(
            f"metric {loaded.name} needs a reference; set reference in the job, to images or to a stored state"
        )
    return source


def _is_state(source: str) -> bool:
    return source.endswith(".safetensors")


def _shard_set(kind: str, job: EvaluateJob, scorer: Scorer, images: ImageSet, numbers: Sequence[int]) -> _ShardedSet:
    """Split a set into shards, and name each shard's files by what determines their content."""
    parts = images.shards(job.shards)
    shards = []
    for k, rows in enumerate(parts, 1):
        identities = [[row.key, row.identity] for row in rows]
        place = f"{k:04d}-of-{len(parts):04d}"
        addresses = {}
        for number in numbers:
            loaded = scorer.set_metrics[number]
            name = f"{_file_name(loaded.name)}-{kind}-{place}-{metric_states.digest(loaded.id, identities)}.safetensors"
            addresses[number] = storage.join(job.output, "states", name)
        scores = None
        if kind == "results" and job.row_metrics:
            ids = [row_metric_id(metric, scorer.spec.weights) for metric in job.row_metrics]
            requests = [repr(row.request) for row in rows]
            grown = [] if scorer.spec.canvas is None else [scorer.spec.canvas.model_dump()]
            digest = metric_states.digest(ids, identities, requests, scorer.spec.mask.identity(), *grown)
            name = f"{place}-{digest}.parquet"
            scores = storage.join(job.output, "scores", name)
        shards.append(Shard(f"{kind} {place}", images.base, rows, addresses, scores))
    return _ShardedSet(images, shards)


def _unfinished(shard: Shard) -> Shard | None:
    """Return the part of a shard that has no files yet; None if all exist."""
    missing = {number: uri for number, uri in shard.states.items() if not storage.exists(uri)}
    scores = shard.scores if shard.scores and not storage.exists(shard.scores) else None
    return Shard(shard.name, shard.base, shard.rows, missing, scores) if missing or scores else None


def _metric_entry(
    job: EvaluateJob, number: int, scorer: Scorer, sharded_sets: Mapping[str | None, _ShardedSet], source: str | None
) -> dict[str, Any]:
    """Return a set metric's entry of ``metrics.json``."""
    loaded = scorer.set_metrics[number]
    results = _merge_states(loaded, sharded_sets[None].states_of(number), job.results)
    reference = None if source is None else _reference_state(job, loaded, sharded_sets.get(source), number, source)
    values = loaded.metric.reduce(results.arrays, reference.arrays if reference else None)
    return {
        "name": loaded.name,
        "values": dict(values),
        "id": dict(loaded.id),
        "images": results.images,
        "uncounted": aggregate.summarize_reasons(results.failed),
        **({"reference": _reference_entry(source, reference)} if reference else {}),
    }


def _reference_entry(source: str | None, reference: StoredState) -> dict[str, Any]:
    return {"source": source, "images": reference.images, "uncounted": aggregate.summarize_reasons(reference.failed)}


def _reference_state(
    job: EvaluateJob, loaded: LoadedMetric, sharded: _ShardedSet | None, number: int, source: str
) -> StoredState:
    """Return a metric's state of its reference: another job's, or one that is fitted here and stored."""
    if sharded is None:
        stored = metric_states.read(source)
        if stored.id and stored.id != loaded.id:
            raise ConfigError(
                f"reference {source}: its metric {json.dumps(stored.id)} is not comparable with {json.dumps(loaded.id)}"
            )
        return stored
    files = sharded.states_of(number)
    # Fitting may take long, so it is done once for the same shards.
    name = f"{_file_name(loaded.name)}-{metric_states.digest([file.rpartition('/')[2] for file in files])}.safetensors"
    place = storage.join(job.output, "reference", name)
    if not storage.exists(place):
        merged = _merge_states(loaded, files, source)
        metric_states.write(
            place, StoredState(loaded.metric.fit(merged.arrays), merged.images, merged.id, merged.failed)
        )
    return metric_states.read(place)


def _merge_states(loaded: LoadedMetric, files: Sequence[str], source: str) -> StoredState:
    parts = [metric_states.read(file) for file in files]
    images, failed = metric_states.merge_counts(parts)
    if not images:
        reasons = next(iter(failed.items()), ("none", "no shard"))
        raise ConfigError(f"metric {loaded.name}: no image of {source} could be read, first {reasons[0]}: {reasons[1]}")
    return StoredState(loaded.metric.merge([part.arrays for part in parts if part.images]), images, loaded.id, failed)


def _write_rows(job: EvaluateJob, scorer: Scorer, sharded: _ShardedSet) -> dict[str, Any]:
    """Write ``rows.parquet``; return the row metrics' entries of ``metrics.json``, and the rows that failed in one."""
    table = aggregate.rows_table(
        sharded.images, [shard.scores for shard in sharded.shards if shard.scores], scorer.columns
    )
    storage.write_table(storage.join(job.output, ROWS_FILE), table)
    found = [
        {
            "name": metric.name,
            "values": aggregate.summarize_scores(table, loaded.columns),
            "id": row_metric_id(metric, scorer.spec.weights),
        }
        for metric, loaded in zip(job.row_metrics, scorer.row_metrics, strict=True)
    ]
    return {"row_metrics": found, "row_errors": aggregate.summarize_reasons(aggregate.scoring_errors(table))}


def _file_name(name: str) -> str:
    return name.rpartition(":")[2].lower()  # the class of package.module:Class


def _device(executor: Executor) -> str:
    """Return the device of this process, which only merges states if Ray scores the shards."""
    from retouch.models.devices import best_device

    return best_device() if executor == "local" else "cpu"


def _executor(
    name: Executor, job: EvaluateJob, scorer: Scorer, address: str | None
) -> Callable[[Sequence[Shard]], Iterator[str]]:
    if name == "local":
        return lambda shards: (scorer.score(shard) for shard in shards)
    from retouch.execution.executors.ray import evaluate as ray_shards

    return lambda shards: ray_shards.execute(shards, scorer.spec, job.ray, address) if shards else iter(())
