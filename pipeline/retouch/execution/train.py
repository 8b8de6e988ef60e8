"""A training of exemplar networks from start to end, carried out here or on Ray, and what is known of it after.

Knows no network and no image.
"""

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
    """How a training ended."""

    name: str
    output: str
    networks: str  # an address for an editor's ``weights``
    steps: int
    loss: float  # of the last update
    seconds: float  # of this start


def task_of(job: TrainJob) -> TrainTask:
    """The training with all that decides it."""
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
    """Bring the networks to their last step; one that is there already is left as it is.

    Raises:
        StopRun: the job is wrong, or its output holds something else.
        Interrupted: stopped on the way, or another call is at work; the same call goes on from the last checkpoint.
    """
    task = task_of(job)
    _refuse_another(job, task, executor)
    with lease.held(job.output):
        return _carry_out(job, task, executor, address, console or Console(stderr=True))


def _carry_out(job: TrainJob, task: TrainTask, executor: Executor, address: str | None, console: Console) -> Trained:
    started = time.monotonic()
    _begin(job, task, executor)
    events = EventLog(job.output)
    events.write("started", executor=executor)

    def say(text: str) -> None:
        console.print(f"{job.name}: {text}", highlight=False, soft_wrap=True)

    with stop_recorded(events, lambda: "all updates up to the last checkpoint saved"):
        record = finished_record(task) or _executor(executor, job, address)(task, say)
    networks = storage.join(job.output, NETWORKS)
    trained = Trained(
        job.name, job.output, networks, record["steps"], record["last"]["loss"], time.monotonic() - started
    )
    write_record(job.output, SUMMARY_FILE, asdict(trained))
    events.write("finished", steps=trained.steps, loss=trained.loss)
    return trained


def _refuse_another(job: TrainJob, task: TrainTask, executor: Executor) -> None:
    """Raise OutputError where the output holds something else."""
    mine = redacted_all(identity(task))
    try:
        there: dict[str, Any] = json.loads(storage.read_bytes(storage.join(job.output, RUN_FILE)))
    except ObjectMissing:
        return
    if there.get("kind") != job.kind:
        raise OutputError(f"{job.output} holds a run of kind {there.get('kind', 'edit')!r}; give another output")
    check_identity(job.output, there["decides"], mine)
    if there["executor"] != executor:
        raise OutputError(
            f"{job.output} was begun with --executor {there['executor']}, which keeps its checkpoints in another form; "
            f"go on with that, or give another output"
        )


def _begin(job: TrainJob, task: TrainTask, executor: Executor) -> None:
    """Note what this output holds, or refuse where it holds something else."""
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

        return lambda task, say: ray_train.execute(task, job.ray, address, say)

    def here(task: TrainTask, say: Callable[[str], None]) -> dict[str, Any]:
        from retouch.models.devices import best_device
        from retouch.training.exemplar.train import FileCheckpoint, run_training

        record = run_training(task, best_device(), FileCheckpoint(task.output), say)
        assert record is not None  # a single worker is the first one
        return record

    return here
