"""Carries out a fine-tuning with Ray: each target a task, side by side, one GPU each. Knows Ray, and no network.

A task whose worker dies is started again by Ray and goes on from its last saved state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retouch.errors import StopRun
from retouch.execution.executors import absolute_paths
from retouch.execution.executors.ray import autoscaling
from retouch.execution.executors.ray.cluster import cluster, of_ours
from retouch.jobs.config import TaskSpec
from retouch.models.devices import best_device
from retouch.training.finetune.target import TargetTask, tune

TRIES = 5  # starts again of one target; each goes on from what the one before saved, so few are ever needed


def execute(
    tasks: Sequence[TargetTask], spec: TaskSpec, address: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each target's name and record as it is finished.

    Raises:
        StopRun: a target that cannot be learned, or a cluster that cannot hold a task.
        Interrupted: Ray gave up; what is saved stays.
    """
    with cluster(address, workers=None):  # a core trains one; the targets that are left wait for it
        import ray

        with autoscaling.resources(wanted(spec), len(tasks)) as there:
            taken = options(spec, there)
        remote = ray.remote(max_retries=TRIES, **taken)(_tune)
        names = {remote.remote(absolute_paths.training(task), bool(taken["num_gpus"])): task.name for task in tasks}
        left = list(names)
        try:
            while left:
                (done, *_), left = ray.wait(left)
                yield names[done], ray.get(done)
        except ray.exceptions.RayError as error:
            raise of_ours(error) from error
        finally:
            for task in left:  # a cluster that runs on must not go on with what nobody waits for
                ray.cancel(task, force=True)


def _tune(task: TargetTask, on_gpu: bool) -> dict[str, Any]:
    return tune(task, best_device() if on_gpu else "cpu")


def wanted(spec: TaskSpec) -> dict[str, float]:
    """What a task takes, as far as the job says it."""
    if spec.gpus_per_task == "auto":
        return dict(spec.resources)
    return {"GPU": spec.gpus_per_task, "CPU": 0.0 if spec.gpus_per_task else spec.cpus_per_task, **spec.resources}


def options(spec: TaskSpec, there: Mapping[str, float]) -> dict[str, Any]:
    """What a task takes of a cluster, as Ray's options.

    Args:
        spec: the job's wishes.
        there: amounts that the cluster has, by resource.

    Raises:
        StopRun: the cluster has less than one task takes.
    """
    gpus = min(1.0, there.get("GPU", 0.0)) if spec.gpus_per_task == "auto" else spec.gpus_per_task
    cpus = 0.0 if gpus else spec.cpus_per_task
    for name, amount in {"GPU": gpus, "CPU": cpus, **spec.resources}.items():
        if amount > there.get(name, 0.0):  # Ray would wait for it without end
            raise StopRun(f"a target wants {amount:g} {name} and the cluster has {there.get(name, 0.0):g}")
    return {"num_gpus": gpus, "num_cpus": cpus, "resources": dict(spec.resources)}
