"""Fine-tune with Ray: each target is a task with one GPU, all in parallel.

Ray retries a task whose worker dies, and it resumes from its last saved state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from retouch.execution.executors import absolute_paths
from retouch.execution.executors.ray import autoscaling
from retouch.execution.executors.ray.cluster import cluster
from retouch.execution.executors.ray.tasks import completed, options, requested
from retouch.jobs.config import TaskSpec
from retouch.models.devices import best_device
from retouch.training.finetune.target import TargetTask, tune

MAX_RETRIES: Final = 5  # of a target; each resumes from the last saved state


def execute(
    tasks: Sequence[TargetTask], spec: TaskSpec, address: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each target's name and record when it is finished.

    Raises:
        StopRun: a target that cannot be trained, or a cluster that cannot hold a task.
        Interrupted: Ray gave up; saved states stay.
    """
    with cluster(address, workers=None):  # one target per core; the others wait
        import ray

        with autoscaling.resources(requested(spec), len(tasks)) as available:
            taken = options(spec, available)
        remote = ray.remote(max_retries=MAX_RETRIES, **taken)(_tune)
        on_gpu = bool(taken["num_gpus"])
        yield from completed({remote.remote(absolute_paths.training(task), on_gpu): task.name for task in tasks})


def _tune(task: TargetTask, on_gpu: bool) -> dict[str, Any]:
    return tune(task, best_device() if on_gpu else "cpu")
