"""Carries out an evaluation's shards with Ray: each a task, side by side, one GPU each. Knows Ray, and no metric.

A shard whose worker dies is started again by Ray; what it makes is put in place whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from retouch.execution.evaluation.scorer import Scorer, ScoreSpec, Shard
from retouch.execution.executors import absolute_paths
from retouch.execution.executors.ray import autoscaling
from retouch.execution.executors.ray.cluster import cluster, of_ours
from retouch.execution.executors.ray.finetune import options, wanted
from retouch.jobs.config import TaskSpec
from retouch.models.devices import best_device

TRIES = 5  # starts again of one shard whose worker died


def execute(shards: Sequence[Shard], score: ScoreSpec, spec: TaskSpec, address: str | None = None) -> Iterator[str]:
    """Yield each shard's name as its files are on storage.

    Raises:
        StopRun: metrics that do not load, or a cluster that cannot hold a task.
        Interrupted: Ray gave up; finished shards stay.
    """
    with cluster(address, workers=None):  # a core scores one; the shards that are left wait for it
        import ray

        with autoscaling.resources(wanted(spec), len(shards)) as there:
            taken = options(spec, there)
        remote = ray.remote(max_retries=TRIES, **taken)(_score)
        told = absolute_paths.scoring(score)
        left = [remote.remote(shard, told, bool(taken["num_gpus"])) for shard in absolute_paths.shards(shards)]
        try:
            while left:
                (done, *_), left = ray.wait(left)
                yield ray.get(done)
        except ray.exceptions.RayError as error:
            raise of_ours(error) from error
        finally:
            for task in left:  # a cluster that runs on must not go on with what nobody waits for
                ray.cancel(task, force=True)


def _score(shard: Shard, spec: ScoreSpec, on_gpu: bool) -> str:
    return Scorer(spec, best_device() if on_gpu else "cpu").score(shard)
