"""How much of a Ray cluster a job uses: its worker pods, and the settings with which its command uses them.

A cluster that scales up from zero has no GPU to count when the command starts, so values that the job leaves at
``auto`` are decided here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from retouch.deployment.kubernetes.manifests import CPU_WORKER, Workers
from retouch.errors import ConfigError
from retouch.jobs.config import EditJob, EvaluateJob, FinetuneJob, Job, TrainJob

CPUS_PER_POD = int(CPU_WORKER["cpu"])


@dataclass(frozen=True)
class ClusterShare:
    """What a job uses of a cluster."""

    workers: Workers
    has_decode_tasks: bool  # whether rows are decoded and written next to the main work, on CPUs of their own
    command: str  # of retouch
    settings: tuple[str, ...]  # a.b=value, over the job's


@dataclass(frozen=True)
class _Unit:
    """One of the actors, tasks or workers that do a job's main work."""

    gpus: float
    cpus: float  # next to its GPUs, or if it has none
    resources: Mapping[str, float]
    count: int | None  # None: as many as fit


def size_cluster(job: Job, gpus: int | None, pods: tuple[int, int] | None) -> ClusterShare:
    """Return what a job uses of a cluster.

    Args:
        job: of any kind.
        gpus: at most, in all; None as in the job, 0 for a cluster of CPUs.
        pods: for the main work, at least and at most; None as in the job.

    Raises:
        ConfigError: the job needs GPUs that it is not given.
    """
    unit = _unit(job, on_gpu=gpus != 0)
    if gpus == 0 and unit.gpus:
        raise ConfigError(f"--gpus 0, but the job asks for {unit.gpus:g} GPU per worker: set ray.*gpus* to 0 or auto")
    gpus_per_pod, units_per_pod = _pod(unit, job)
    max_pods = _max_pods(unit, gpus_per_pod, units_per_pod, gpus, pods)
    workers = Workers(
        gpus=gpus_per_pod,
        min_pods=0 if pods is None else pods[0],
        max_pods=max_pods,
        cpus=_cpus(unit, units_per_pod, job),
        resources={name: amount * units_per_pod for name, amount in unit.resources.items()},
    )
    fills_pods = unit.count is None or gpus is not None or pods is not None
    count = max_pods * units_per_pod if fills_pods else unit.count
    command = "evaluate" if isinstance(job, EvaluateJob) else "run"
    return ClusterShare(workers, isinstance(job, EditJob), command, _settings(job, unit.gpus, count))


def _unit(job: Job, *, on_gpu: bool) -> _Unit:
    ray = job.ray
    default = 1.0 if on_gpu else 0.0
    if isinstance(job, EditJob):
        gpus = default if job.ray.gpus_per_actor == "auto" else job.ray.gpus_per_actor
        count = None if job.ray.actors == "auto" else job.ray.actors
        return _Unit(gpus, 0.0 if gpus else 1.0, ray.resources, count)
    if isinstance(job, TrainJob):
        gpus = default if job.ray.gpus_per_worker == "auto" else job.ray.gpus_per_worker
        count = None if job.ray.workers == "auto" else job.ray.workers
        return _Unit(gpus, job.ray.cpus_per_worker, ray.resources, count)
    gpus = default if job.ray.gpus_per_task == "auto" else job.ray.gpus_per_task
    targets = len(job.targets) if isinstance(job, FinetuneJob) else None
    return _Unit(gpus, 0.0 if gpus else job.ray.cpus_per_task, ray.resources, targets)


def _pod(unit: _Unit, job: Job) -> tuple[int, int]:
    """Return the GPUs of a pod, and how many units it holds."""
    if unit.gpus:
        gpus_per_pod = math.ceil(unit.gpus)
        return gpus_per_pod, max(1, math.floor(gpus_per_pod / unit.gpus))
    # An edit job without GPUs needs one CPU for decode and write tasks next to the actors.
    free = CPUS_PER_POD - (1 if isinstance(job, EditJob) else 0)
    return 0, max(1, math.floor(free / unit.cpus))


def _max_pods(
    unit: _Unit, gpus_per_pod: int, units_per_pod: int, gpus: int | None, pods: tuple[int, int] | None
) -> int:
    if pods is not None:
        return pods[1]
    if gpus:
        if gpus < gpus_per_pod:
            raise ConfigError(f"--gpus {gpus}, but one worker needs {unit.gpus:g}: give at least {gpus_per_pod}")
        return gpus // gpus_per_pod
    return 1 if unit.count is None else math.ceil(unit.count / units_per_pod)


def _cpus(unit: _Unit, units_per_pod: int, job: Job) -> int:
    if unit.gpus:
        return math.ceil(unit.cpus * units_per_pod)
    return math.ceil(unit.cpus) + (1 if isinstance(job, EditJob) else 0)


def _settings(job: Job, gpus: float, count: int | None) -> tuple[str, ...]:
    if isinstance(job, EditJob):
        return (f"ray.actors={count}", f"ray.gpus_per_actor={gpus:g}")
    if isinstance(job, TrainJob):
        return (f"ray.workers={count}", f"ray.gpus_per_worker={gpus:g}")
    return (f"ray.gpus_per_task={gpus:g}",)
