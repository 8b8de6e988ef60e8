"""What a job takes of a Ray cluster: how many pods of what, and what the command is told. Knows jobs, not Kubernetes.

A cluster that grows from nothing has no GPU to count when the command starts, so what the job leaves to ``auto`` is
decided here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from retouch.deployment.kubernetes.pods import CPU_WORKER, Workers
from retouch.errors import ConfigError
from retouch.jobs.config import EditJob, EvaluateJob, FinetuneJob, Job, TrainJob

CPUS_OF_A_POD = int(CPU_WORKER["cpu"])


@dataclass(frozen=True)
class Share:
    """A job's part of a cluster."""

    workers: Workers
    decodes: bool  # whether rows are decoded and written beside the main work, on CPUs of their own
    command: str  # of retouch
    settings: tuple[str, ...]  # a.b=value, over the job's


@dataclass(frozen=True)
class _Piece:
    """One of the actors, tasks or workers that do a job's main work."""

    gpus: float
    cpus: float  # beside its GPUs, or where it has none
    resources: Mapping[str, float]
    count: int | None  # None: as many as there is room for


def share(job: Job, gpus: int | None, pods: tuple[int, int] | None) -> Share:
    """How a job is spread.

    Args:
        job: of any kind.
        gpus: in all, at most; None as the job says, 0 for a cluster of CPUs.
        pods: that do the main work, at least and at most; None as the job says.

    Raises:
        ConfigError: the job wants GPUs that it is not given.
    """
    piece = _piece(job, gpus != 0)
    if gpus == 0 and piece.gpus:
        raise ConfigError(f"--gpus 0, and the job asks for {piece.gpus:g} GPU a worker: set ray.*gpus* to 0 or auto")
    per_pod, on_a_pod = _pods(piece, job)
    most = _most(piece, per_pod, on_a_pod, gpus, pods)
    workers = Workers(
        gpus=per_pod,
        least=0 if pods is None else pods[0],
        most=most,
        cpus=_cpus(piece, on_a_pod, job),
        resources={name: amount * on_a_pod for name, amount in piece.resources.items()},
    )
    is_free = piece.count is None or gpus is not None or pods is not None
    count = most * on_a_pod if is_free else piece.count
    return Share(workers, isinstance(job, EditJob), _command(job), _settings(job, piece.gpus, count))


def _piece(job: Job, on_gpu: bool) -> _Piece:
    ray = job.ray
    usual = 1.0 if on_gpu else 0.0
    if isinstance(job, EditJob):
        gpus = usual if job.ray.gpus_per_actor == "auto" else job.ray.gpus_per_actor
        count = None if job.ray.actors == "auto" else job.ray.actors
        return _Piece(gpus, 0.0 if gpus else 1.0, ray.resources, count)
    if isinstance(job, TrainJob):
        gpus = usual if job.ray.gpus_per_worker == "auto" else job.ray.gpus_per_worker
        count = None if job.ray.workers == "auto" else job.ray.workers
        return _Piece(gpus, job.ray.cpus_per_worker, ray.resources, count)
    gpus = usual if job.ray.gpus_per_task == "auto" else job.ray.gpus_per_task
    targets = len(job.targets) if isinstance(job, FinetuneJob) else None
    return _Piece(gpus, 0.0 if gpus else job.ray.cpus_per_task, ray.resources, targets)


def _pods(piece: _Piece, job: Job) -> tuple[int, int]:
    """GPUs of a pod, and how many pieces it holds."""
    if piece.gpus:
        per_pod = math.ceil(piece.gpus)
        return per_pod, max(1, math.floor(per_pod / piece.gpus))
    # Decode and write tasks of a job on CPUs want one beside the actors.
    free = CPUS_OF_A_POD - (1 if isinstance(job, EditJob) else 0)
    return 0, max(1, math.floor(free / piece.cpus))


def _most(piece: _Piece, per_pod: int, on_a_pod: int, gpus: int | None, pods: tuple[int, int] | None) -> int:
    if pods is not None:
        return pods[1]
    if gpus:
        if gpus < per_pod:
            raise ConfigError(f"--gpus {gpus}, and one worker takes {piece.gpus:g}: give at least {per_pod}")
        return gpus // per_pod
    return 1 if piece.count is None else math.ceil(piece.count / on_a_pod)


def _cpus(piece: _Piece, on_a_pod: int, job: Job) -> int:
    if piece.gpus:
        return math.ceil(piece.cpus * on_a_pod)
    return math.ceil(piece.cpus) + (1 if isinstance(job, EditJob) else 0)


def _command(job: Job) -> str:
    return "evaluate" if isinstance(job, EvaluateJob) else "run"


def _settings(job: Job, gpus: float, count: int | None) -> tuple[str, ...]:
    if isinstance(job, EditJob):
        return (f"ray.actors={count}", f"ray.gpus_per_actor={gpus:g}")
    if isinstance(job, TrainJob):
        return (f"ray.workers={count}", f"ray.gpus_per_worker={gpus:g}")
    return (f"ray.gpus_per_task={gpus:g}",)
