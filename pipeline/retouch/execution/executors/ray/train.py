"""Train with Ray Train: a group of workers with one GPU each, and checkpoints on the output's storage.

If a worker dies, Ray starts a new group, which resumes from the last checkpoint. If the driver dies, the same command
resumes from that checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Any, Final

from retouch import errors, storage
from retouch.errors import RetouchError, StopRun
from retouch.execution.executors import absolute_paths
from retouch.execution.executors.ray import autoscaling
from retouch.execution.executors.ray.cluster import cluster, run_error
from retouch.jobs.config import WorkersSpec
from retouch.training.exemplar.task import PROGRESS_FILE, STATE, TrainTask, progress_line

CHECKPOINT_FILE: Final = "state.ckpt"
MAX_STARTS: Final = 3  # tries to start the group of workers
# Workers import torch; on a busy machine that takes longer than the minute that Ray allows.
START_TIMEOUT: Final = 600
INTERVAL: Final = 5.0  # seconds between two reads of the progress


def execute(
    task: TrainTask, spec: WorkersSpec, address: str | None = None, on_progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Train, and return the record of the training.

    Raises:
        StopRun: rows or weights that cannot be trained on, or a cluster that cannot hold the workers.
        Interrupted: Ray gave up; the last checkpoint stays.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(START_TIMEOUT))
    workers = 1 if spec.workers == "auto" else spec.workers
    with cluster(address, math.ceil(workers * spec.cpus_per_worker)):
        import ray
        from ray.train import TrainingFailedError

        with autoscaling.resources(_requested(spec), workers, at_least=workers) as available:
            scaling = _scaling(spec, available)
        with ThreadPoolExecutor(1, thread_name_prefix="fit") as thread:
            # Not in the main thread, where Ray would install a handler of Ctrl-C that ends with exit code 0.
            fitted = thread.submit(_fit, absolute_paths.training(task), spec, scaling)
            try:
                outcome = _wait(fitted, task, on_progress)
            except (TrainingFailedError, ray.exceptions.RayError) as error:
                raise run_error(error) from error
            except BaseException:
                ray.shutdown()  # so that the thread ends
                raise
    if "stop" in outcome:
        name, message = outcome["stop"]
        raise getattr(errors, name, StopRun)(message)
    record: dict[str, Any] = outcome["record"]
    return record


def _fit(task: TrainTask, spec: WorkersSpec, scaling: Mapping[str, Any]) -> dict[str, Any]:
    from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": task, "on_gpu": scaling["use_gpu"]},
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            name=STATE,
            **_storage(task.output),
            failure_config=FailureConfig(
                max_failures=spec.max_failures,
                controller_failure_limit=MAX_STARTS,  # endless by default if the group never starts
            ),
            # Ray writes the new one before it deletes the old one.
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="CRITICAL"),  # errors are raised, and printed once
        ),
    )
    outcome: dict[str, Any] = trainer.fit().return_value
    return outcome


def _work(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Train in one worker. A wrong job is returned and not raised, since a retry would not help."""
    from ray.train.torch import get_device

    from retouch.training.exemplar.train import run_training

    device = str(get_device()) if config["on_gpu"] else "cpu"
    try:
        return {"record": run_training(config["task"], device, RayKeeper())}
    except StopRun as error:
        return {"stop": (type(error).__name__, str(error))}


class RayKeeper:
    """Ray Train's checkpoints: the first worker's, on the run's storage."""

    def load(self) -> Mapping[str, Any] | None:
        """Return the state of the last checkpoint; None if there is none."""
        from ray.train import get_checkpoint

        from retouch.models.checkpoint import read_state

        checkpoint = get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            return read_state(Path(folder) / CHECKPOINT_FILE)

    def save(self, state: Callable[[], Mapping[str, Any]], facts: Mapping[str, float]) -> None:
        """Save a checkpoint; return when it is on the storage."""
        import torch
        from ray import train

        if train.get_context().get_world_rank():
            train.report(dict(facts))
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(dict(state()), Path(folder) / CHECKPOINT_FILE)
            train.report(dict(facts), checkpoint=train.Checkpoint.from_directory(folder))


def _requested(spec: WorkersSpec) -> dict[str, float]:
    """Return what a worker takes, as far as the job says so."""
    if spec.gpus_per_worker == "auto":
        return dict(spec.resources)
    return {"GPU": spec.gpus_per_worker, "CPU": spec.cpus_per_worker, **spec.resources}


def _scaling(spec: WorkersSpec, available: Mapping[str, float]) -> dict[str, Any]:
    """Return how many workers there are, and what each takes.

    Raises:
        StopRun: the cluster has less than that, for which Ray Train would wait for ever.
    """
    gpus = available.get("GPU", 0.0)
    each = min(1.0, gpus) if spec.gpus_per_worker == "auto" else spec.gpus_per_worker
    workers = spec.workers if spec.workers != "auto" else max(1, int(gpus // each)) if each else 1
    wanted = {"GPU": each, "CPU": spec.cpus_per_worker, **spec.resources}
    for name, amount in wanted.items():
        if amount * workers > available.get(name, 0.0):
            raise StopRun(
                f"{workers} workers need {amount * workers:g} {name} and the cluster has {available.get(name, 0.0):g}; "
                "see ray in the job"
            )
    taken = {name: amount for name, amount in wanted.items() if amount}
    return {"num_workers": workers, "use_gpu": each > 0, "resources_per_worker": taken}


def _storage(output: str) -> dict[str, Any]:
    """Return where Ray Train keeps its checkpoints, through our filesystem with its endpoint and credentials."""
    path = storage.local_path(output)
    if path is not None:
        return {"storage_path": str(path)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, inside = storage.filesystem(output)
    return {"storage_path": inside, "storage_filesystem": PyFileSystem(FSSpecHandler(filesystem))}


def _wait(fitted: Future[dict[str, Any]], task: TrainTask, on_progress: Callable[[str], None]) -> dict[str, Any]:
    """Return the result of the training; meanwhile report its progress, which is read from the output."""
    last = _progress(task)
    while True:
        with contextlib.suppress(NotYet):
            return fitted.result(timeout=INTERVAL)
        if fitted.done():  # it may itself have ended with a TimeoutError
            return fitted.result()
        if (now := _progress(task)) not in (None, last):
            on_progress(progress_line(json.loads(now or b"")))
            last = now


def _progress(task: TrainTask) -> bytes | None:
    with contextlib.suppress(RetouchError):
        return storage.read_bytes(storage.join(task.output, PROGRESS_FILE))
    return None
