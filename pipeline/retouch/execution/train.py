"""Training jobs: train exemplar networks, in this process or on Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from retouch import storage
from retouch.errors import ObjectMissing, OutputError
from retouch.execution.lifecycle import Executor, stop_recorded, write_record
from retouch.jobs.config import TrainJob
from retouch.outputs import lease
from retouch.outputs.event_log import EventLog
from retouch.redaction import redacted_all
from retouch.training.exemplar.task import NETWORKS, TrainTask, check_identity, finished_record, identity

RUN_FILE = "run.json"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class Trained:
    """Result of a training job."""

    name: str
    output: str
    networks: str  # address for an editor's ``weights``
    steps: int
    loss: float  # of the last update
    seconds: float  # of this call


def task_of(job: TrainJob) -> TrainTask:
    """Return the training task of a job."""
    return TrainTask(
        name=job.name,
        manifests=job.manifests,
        output=job.output,
        weights=job.weights,
        params=job.params,
        seed=job.seed,
        max_failure_rate=job.max_failure_rate,
        threads=max(1, round(job.ray.cpus_per_worker)),
    )


def train(
    job: TrainJob, *, executor: Executor = "ray", address: str | None = None, console: Console | None = None
) -> Trained:
    """Train the networks to the last step, unless they are finished.

    Raises:
        StopRun: the job is wrong, or its output belongs to another job.
        Interrupted: stopped early, or another call is running; the same call resumes from the last checkpoint.
    """
    task = task_of(job)
    _refuse_another(job, task, executor)
    with lease.held(job.output):
        return _train(job, task, executor, address, console or Console(stderr=True))


def _train(job: TrainJob, task: TrainTask, executor: Executor, address: str | None, console: Console) -> Trained:
    started = time.monotonic()
    _write_run(job, task, executor)
    events = EventLog(job.output)
    events.write("started", executor=executor)

    def report(text: str) -> None:
        console.print(f"{job.name}: {text}", highlight=False, soft_wrap=True)

    with stop_recorded(events, lambda: "all updates up to the last checkpoint saved"):
        record = finished_record(task) or _executor(executor, job, address)(task, report)
    networks = storage.join(job.output, NETWORKS)
    trained = Trained(
        job.name, job.output, networks, record["steps"], record["last"]["loss"], time.monotonic() - started
    )
    write_record(job.output, SUMMARY_FILE, asdict(trained))
    events.write("finished", steps=trained.steps, loss=trained.loss)
    return trained


def _refuse_another(job: TrainJob, task: TrainTask, executor: Executor) -> None:
    """Raise OutputError if the output belongs to another job."""
    try:
        recorded: dict[str, Any] = json.loads(storage.read_bytes(storage.join(job.output, RUN_FILE)))
    except ObjectMissing:
        return
    if recorded.get("kind") != job.kind:
        raise OutputError(f"{job.output} holds a run of kind {recorded.get('kind', 'edit')!r}; use another output")
    check_identity(job.output, recorded["decides"], redacted_all(identity(task)))
    if recorded["executor"] != executor:
        raise OutputError(
            f"{job.output} was started with --executor {recorded['executor']}, which writes checkpoints of another "
            f"format; use that, or another output"
        )


def _write_run(job: TrainJob, task: TrainTask, executor: Executor) -> None:
    """Record the job in the output; raise OutputError if it belongs to another job."""
    _refuse_another(job, task, executor)
    record = {
        "kind": job.kind,
        "executor": executor,
        "job": job.model_dump(mode="json"),
        "decides": identity(task),
    }
    write_record(job.output, RUN_FILE, record)


def _executor(
    name: Executor, job: TrainJob, address: str | None
) -> Callable[[TrainTask, Callable[[str], None]], dict[str, Any]]:
    if name == "ray":
        from retouch.execution.executors.ray import train as ray_train

        return lambda task, report: ray_train.execute(task, job.ray, address, report)

    def train_here(task: TrainTask, report: Callable[[str], None]) -> dict[str, Any]:
        from retouch.models.devices import best_device
        from retouch.training.exemplar.train import FileCheckpoint, run_training

        record = run_training(task, best_device(), FileCheckpoint(task.output), report)
        assert record is not None  # only workers other than the first return None
        return record

    return train_here
