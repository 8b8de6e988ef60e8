"""Run independent pieces of work as Ray tasks: what each takes, and their results as they finish."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from retouch.errors import StopRun
from retouch.execution.executors.ray.cluster import run_error
from retouch.jobs.config import TaskSpec

Label = TypeVar("Label")


def requested(spec: TaskSpec) -> dict[str, float]:
    """Return what a task takes, as far as the job says so."""
    if spec.gpus_per_task == "auto":
        return dict(spec.resources)
    return {"GPU": spec.gpus_per_task, "CPU": 0.0 if spec.gpus_per_task else spec.cpus_per_task, **spec.resources}


def options(spec: TaskSpec, available: Mapping[str, float]) -> dict[str, Any]:
    """Return what a task takes, as Ray's options.

    Args:
        spec: the job's ``ray`` settings.
        available: resources of the cluster, by name.

    Raises:
        StopRun: the cluster has less than one task needs.
    """
    gpus = min(1.0, available.get("GPU", 0.0)) if spec.gpus_per_task == "auto" else spec.gpus_per_task
    cpus = 0.0 if gpus else spec.cpus_per_task
    for name, amount in {"GPU": gpus, "CPU": cpus, **spec.resources}.items():
        if amount > available.get(name, 0.0):  # Ray would wait for it for ever
            raise StopRun(
                f"a task needs {amount:g} {name} and the cluster has {available.get(name, 0.0):g}; see ray in the job"
            )
    return {"num_gpus": gpus, "num_cpus": cpus, "resources": dict(spec.resources)}


def completed(tasks: Mapping[Any, Label]) -> Iterator[tuple[Label, Any]]:
    """Yield the label and result of each task as it finishes; cancel the others if the caller stops.

    Args:
        tasks: Ray's object references, and a label for each.

    Raises:
        StopRun, Interrupted: as a task raised them, or Ray gave up.
    """
    import ray

    left = list(tasks)
    try:
        while left:
            (done, *_), left = ray.wait(left)
            yield tasks[done], ray.get(done)
    except ray.exceptions.RayError as error:
        raise run_error(error) from error
    finally:
        for task in left:  # a running cluster must not continue what nobody waits for
            ray.cancel(task, force=True)
