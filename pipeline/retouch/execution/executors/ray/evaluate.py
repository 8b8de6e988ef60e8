"""Score the shards of an evaluation with Ray: each is a task with one GPU, all in parallel.

Ray retries a shard whose worker dies; its files are written whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from retouch.execution.evaluation.scorer import Scorer, ScoreSpec, Shard
from retouch.execution.executors import absolute_paths
from retouch.execution.executors.ray import autoscaling
from retouch.execution.executors.ray.cluster import cluster
from retouch.execution.executors.ray.tasks import completed, options, requested
from retouch.jobs.config import TaskSpec
from retouch.models.devices import best_device

MAX_RETRIES: Final = 5  # of a shard whose worker died


def execute(shards: Sequence[Shard], score: ScoreSpec, spec: TaskSpec, address: str | None = None) -> Iterator[str]:
    """Yield each shard's name when its files are on storage.

    Raises:
        StopRun: metrics that do not load, or a cluster that cannot hold a task.
        Interrupted: Ray gave up; finished shards stay.
    """
    with cluster(address, workers=None):  # one shard per core; the others wait
        import ray

        with autoscaling.resources(requested(spec), len(shards)) as available:
            taken = options(spec, available)
        remote = ray.remote(max_retries=MAX_RETRIES, **taken)(_score)
        on_gpu, scoring = bool(taken["num_gpus"]), absolute_paths.scoring(score)
        tasks = {remote.remote(shard, scoring, on_gpu): shard.name for shard in absolute_paths.shards(shards)}
        yield from (name for name, _ in completed(tasks))


def _score(shard: Shard, spec: ScoreSpec, on_gpu: bool) -> str:
    return Scorer(spec, best_device() if on_gpu else "cpu").score(shard)
