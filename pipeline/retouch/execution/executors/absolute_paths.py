"""Make the addresses in workers' settings absolute, since workers have working folders of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from retouch import storage
from retouch.jobs.config import MetricSpec, Weights

if TYPE_CHECKING:  # so that each executor's workers import only what they need
    from retouch.execution.evaluation.scorer import ScoreSpec, Shard
    from retouch.execution.plan import Plan
    from retouch.training.exemplar.task import TrainTask
    from retouch.training.finetune.target import TargetTask

Task = TypeVar("Task", "TrainTask", "TargetTask")


def address(uri: str) -> str:
    """Return a file's, folder's or glob's absolute address; names such as ``embedded:shapes`` stay as they are."""
    path, mark, pin = uri.partition("#")
    local = storage.local_path(path)
    if local is None or (":" in path and not local.exists()):
        return uri
    return f"{local}{mark}{pin}"


def weights(spec: Weights) -> Weights:
    """Return a job's weights with absolute addresses."""
    if isinstance(spec, str):
        return address(spec)
    return {role: address(at) if isinstance(at, str) else [*map(address, at)] for role, at in spec.items()}


def training(task: Task) -> Task:
    """Return a training, or a target of a fine-tuning, with absolute addresses."""
    return replace(
        task,
        manifests=tuple(map(address, task.manifests)),
        output=address(task.output),
        weights=weights(task.weights),
    )


def editing(plan: Plan) -> Plan:
    """Return a plan with absolute addresses; those of its rows are absolute already."""
    output, latents = address(plan.write.output), plan.engine.latents
    engine = replace(
        plan.engine,
        weights=weights(plan.engine.weights),
        metrics=tuple(map(_metric, plan.engine.metrics)),
        latents=latents and address(latents),
        output=output,
    )
    return replace(
        plan,
        engine=engine,
        decode=replace(plan.decode, output=output),
        write=replace(plan.write, output=output),
    )


def shards(some: Iterable[Shard]) -> list[Shard]:
    """Return an evaluation's shards with absolute addresses."""
    return [
        replace(
            shard,
            base=shard.base and address(shard.base),
            states={number: address(uri) for number, uri in shard.states.items()},
            scores=shard.scores and address(shard.scores),
        )
        for shard in some
    ]


def scoring(spec: ScoreSpec) -> ScoreSpec:
    """Return an evaluation's settings with absolute addresses."""
    return replace(
        spec,
        metrics=tuple(map(_metric, spec.metrics)),
        row_metrics=tuple(map(_metric, spec.row_metrics)),
        weights=spec.weights and weights(spec.weights),
    )


def _metric(metric: MetricSpec) -> MetricSpec:
    return metric if metric.weights is None else metric.model_copy(update={"weights": weights(metric.weights)})
