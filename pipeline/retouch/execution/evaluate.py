"""An evaluation from start to end: sets looked up, shards scored here or on Ray, states merged, ``metrics.json``.

Knows no network and no pixel. In the output::

    metrics.json            every number with its id, its counts, and the images that were not counted
    rows.parquet            one row an image that there is or should be: status, reason, row metrics
    states/, scores/        what each shard yielded, named by what decides it: what is there is not computed again
    reference/              what each set metric keeps of the reference; another job may name it as its reference
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
from retouch.execution.evaluation.scorer import Loaded, Scorer, ScoreSpec, Shard, row_metric_id
from retouch.execution.lifecycle import Executor, stop_recorded, write_record
from retouch.jobs.config import EvaluateJob, MaskSpec
from retouch.outputs.event_log import EventLog

METRICS_FILE: Final = "metrics.json"
ROWS_FILE: Final = "rows.parquet"


@dataclass(frozen=True)
class Evaluation:
    """How an evaluation ended."""

    name: str
    output: str
    record: Mapping[str, Any]  # metrics.json
    seconds: float


@dataclass(frozen=True)
class _Side:
    """A set of images in shards, and which files come of each."""

    images: ImageSet
    shards: list[Shard]

    def states_of(self, number: int) -> list[str]:
        return [shard.states[number] for shard in self.shards if number in shard.states]


def evaluate(
    job: EvaluateJob, *, executor: Executor = "ray", address: str | None = None, console: Console | None = None
) -> Evaluation:
    """Measure what is not measured yet, and write down all of it.

    Raises:
        StopRun: the job is wrong, or no image could be scored.
        Interrupted: stopped on the way; the same call goes on from the shards that are done.
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
    sides: dict[str | None, _Side] = {None: _side("results", job, scorer, results, range(len(sources)))}
    for source in dict.fromkeys(source for source in sources if source and not _is_state(source)):
        numbers = [number for number, its in enumerate(sources) if its == source]
        sides[source] = _side("reference", job, scorer, read_set(source), numbers)
    left = [left for side in sides.values() for shard in side.shards if (left := _left(shard))]
    events = EventLog(job.output)
    _score_shards(left, _executor(executor, job, scorer, address), events, f"{job.name}: ", console)
    measured = [_measured(job, number, scorer, sides, source) for number, source in enumerate(sources)]
    record = {
        "name": job.name,
        "job": job.model_dump(mode="json"),
        "results": aggregate.of_images(results),
        "references": {source: aggregate.of_images(side.images) for source, side in sides.items() if source},
        "metrics": measured,
        **_rows(job, scorer, sides[None]),
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
    """What is loaded: masks are read and weights default as in the run that made the images."""
    mask = job.mask or MaskSpec.model_validate(made_by.get("mask", {}))
    return ScoreSpec(job.metrics, job.row_metrics, made_by.get("editor", {}).get("weights"), mask)


def _manifests(job: EvaluateJob, made_by: Mapping[str, Any]) -> str | list[str]:
    sources = job.manifest or made_by.get("manifest")
    if not sources:
        raise ConfigError(f"row_metrics need sources and masks: {job.results} is no run, so give the job a manifest")
    return sources if isinstance(sources, str) else list(sources)


def _reference(job: EvaluateJob, loaded: Loaded) -> str | None:
    """A metric's reference: images or a kept state; None where it compares nothing."""
    if not loaded.metric.compares:
        return None
    source = job.reference.get(loaded.name) if isinstance(job.reference, dict) else job.reference
    if source is None:
        raise ConfigError(f"metric {loaded.name} compares with a reference: give the job one, images or a kept state")
    return source


def _is_state(source: str) -> bool:
    return source.endswith(".safetensors")


def _side(kind: str, job: EvaluateJob, scorer: Scorer, images: ImageSet, numbers: Sequence[int]) -> _Side:
    """A set's shards, each with the names of its files, which hold what decides them."""
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
            name = f"{place}-{metric_states.digest(ids, identities, requests, scorer.spec.mask.model_dump())}.parquet"
            scores = storage.join(job.output, "scores", name)
        shards.append(Shard(f"{kind} {place}", images.base, rows, addresses, scores))
    return _Side(images, shards)


def _left(shard: Shard) -> Shard | None:
    """What of a shard is not on storage yet."""
    missing = {number: uri for number, uri in shard.states.items() if not storage.exists(uri)}
    scores = shard.scores if shard.scores and not storage.exists(shard.scores) else None
    return Shard(shard.name, shard.base, shard.rows, missing, scores) if missing or scores else None


def _measured(
    job: EvaluateJob, number: int, scorer: Scorer, sides: Mapping[str | None, _Side], source: str | None
) -> dict[str, Any]:
    """A set metric's entry of ``metrics.json``."""
    loaded = scorer.set_metrics[number]
    here = _merged(loaded, sides[None].states_of(number), job.results)
    reference = None if source is None else _kept_reference(job, loaded, sides.get(source), number, source)
    values = loaded.metric.reduce(here.state, reference.state if reference else None)
    return {
        "name": loaded.name,
        "values": dict(values),
        "id": dict(loaded.id),
        "images": here.images,
        "uncounted": aggregate.named(here.failed),
        **({"reference": _said_reference(source, reference)} if reference else {}),
    }


def _said_reference(source: str | None, reference: metric_states.Kept) -> dict[str, Any]:
    return {"source": source, "images": reference.images, "uncounted": aggregate.named(reference.failed)}


def _kept_reference(
    job: EvaluateJob, loaded: Loaded, side: _Side | None, number: int, source: str
) -> metric_states.Kept:
    """What the metric keeps of its reference: as another job kept it, or fitted here and kept."""
    if side is None:
        kept = metric_states.read(source)
        if kept.id and kept.id != loaded.id:
            raise ConfigError(
                f"{source} is of {json.dumps(kept.id)}, which does not compare with {json.dumps(loaded.id)}"
            )
        return kept
    files = side.states_of(number)
    # Fitting may take long: once for the same shards.
    name = f"{_file_name(loaded.name)}-{metric_states.digest([file.rpartition('/')[2] for file in files])}.safetensors"
    place = storage.join(job.output, "reference", name)
    if not storage.exists(place):
        merged = _merged(loaded, files, source)
        metric_states.write(
            place, metric_states.Kept(loaded.metric.fit(merged.state), merged.images, merged.id, merged.failed)
        )
    return metric_states.read(place)


def _merged(loaded: Loaded, files: Sequence[str], source: str) -> metric_states.Kept:
    parts = [metric_states.read(file) for file in files]
    images, failed = metric_states.merge_notes(parts)
    if not images:
        reasons = next(iter(failed.items()), ("none", "no shard"))
        raise ConfigError(f"metric {loaded.name}: no image of {source} could be read, first {reasons[0]}: {reasons[1]}")
    return metric_states.Kept(
        loaded.metric.merge([part.state for part in parts if part.images]), images, loaded.id, failed
    )


def _rows(job: EvaluateJob, scorer: Scorer, side: _Side) -> dict[str, Any]:
    """Write ``rows.parquet``; the row metrics' entries of ``metrics.json``, and the rows that one of them lacks."""
    table = aggregate.rows_table(side.images, [shard.scores for shard in side.shards if shard.scores], scorer.columns)
    storage.write_table(storage.join(job.output, ROWS_FILE), table)
    found = [
        {
            "name": metric.name,
            "values": aggregate.of_scores(table, loaded.columns),
            "id": row_metric_id(metric, scorer.spec.weights),
        }
        for metric, loaded in zip(job.row_metrics, scorer.row_metrics, strict=True)
    ]
    return {"row_metrics": found, "row_errors": aggregate.named(aggregate.failures(table))}


def _file_name(name: str) -> str:
    return name.rpartition(":")[2].lower()  # of package.module:Class the class


def _device(executor: Executor) -> str:
    """Here metrics are only reduced, where Ray does the work."""
    from retouch.models.devices import best_device

    return best_device() if executor == "local" else "cpu"


def _executor(
    name: Executor, job: EvaluateJob, scorer: Scorer, address: str | None
) -> Callable[[Sequence[Shard]], Iterator[str]]:
    if name == "local":
        return lambda shards: (scorer.score(shard) for shard in shards)
    from retouch.execution.executors.ray import evaluate as ray_shards

    return lambda shards: ray_shards.execute(shards, scorer.spec, job.ray, address) if shards else iter(())
