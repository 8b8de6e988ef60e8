"""What workers are told, with addresses that mean the same in their working folder as in the command's. No Ray here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from retouch import storage
from retouch.jobs.config import MetricSpec, Weights

if TYPE_CHECKING:  # each executor's workers load what they need and no more
    from retouch.execution.evaluation.scorer import ScoreSpec, Shard
    from retouch.execution.plan import Plan
    from retouch.training.exemplar.task import TrainTask
    from retouch.training.finetune.target import TargetTask

Task = TypeVar("Task", "TrainTask", "TargetTask")


def address(uri: str) -> str:
    """A file's, folder's or glob's address made absolute; names such as ``embedded:shapes`` stay as they are."""
    path, mark, pin = uri.partition("#")
    local = storage.local_path(path)
    if local is None or (":" in path and not local.exists()):
        return uri
    return f"{local}{mark}{pin}"


def weights(spec: Weights) -> Weights:
    """A job's weights, each address by ``address``."""
    if isinstance(spec, str):
        return address(spec)
    return {role: address(at) if isinstance(at, str) else [*map(address, at)] for role, at in spec.items()}


def training(task: Task) -> Task:
    """A training or a target of a fine-tuning."""
    return replace(
        task,
        manifests=tuple(map(address, task.manifests)),
        output=address(task.output),
        weights=weights(task.weights),
    )


def editing(plan: Plan) -> Plan:
    """A plan of edits; rows have absolute addresses from their manifest."""
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
    """Shards of an evaluation."""
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
    """What an evaluation's workers load."""
    return replace(
        spec,
        metrics=tuple(map(_metric, spec.metrics)),
        row_metrics=tuple(map(_metric, spec.row_metrics)),
        weights=spec.weights and weights(spec.weights),
    )


def _metric(metric: MetricSpec) -> MetricSpec:
    return metric if metric.weights is None else metric.model_copy(update={"weights": weights(metric.weights)})
