"""Fine-tuning jobs: tune every target of a job, in this process or on Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from retouch import plugins, storage
from retouch.errors import ObjectMissing, OutputError
from retouch.execution.lifecycle import Executor, stop_recorded, write_record
from retouch.jobs.config import FinetuneJob, TargetSpec
from retouch.jobs.finetune_params import FinetuneParams
from retouch.models import weights
from retouch.outputs import lease
from retouch.outputs.event_log import EventLog
from retouch.outputs.run_record import RUN_FILE
from retouch.training.finetune.domains import domain
from retouch.training.finetune.target import TargetTask, tune
from retouch.training.finetune.texts import Texts

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class Tuned:
    """Result of a fine-tuning job."""

    name: str
    output: str
    targets: dict[str, str]  # name to the address of its network
    seconds: float


def tasks_of(job: FinetuneJob) -> list[TargetTask]:
    """Return a job's targets, checked as far as possible without reading images.

    Raises:
        ConfigError: unknown params or domain.
        WeightsError: weights are missing.
    """
    weights.resolve(job.weights)
    return [_task(job, target) for target in job.targets]


def finetune(
    job: FinetuneJob, *, executor: Executor = "ray", address: str | None = None, console: Console | None = None
) -> Tuned:
    """Tune every target that is not finished.

    Raises:
        StopRun: the job is wrong.
        Interrupted: stopped early, or another call is running; the same call resumes from the last saved states.
    """
    tasks = tasks_of(job)
    _refuse_edits(job.output)
    with lease.held(job.output):
        return _tune_all(job, tasks, executor, address, console or Console(stderr=True))


def _tune_all(
    job: FinetuneJob, tasks: list[TargetTask], executor: Executor, address: str | None, console: Console
) -> Tuned:
    started = time.monotonic()
    events = EventLog(job.output)
    events.write("started", targets=[task.name for task in tasks], executor=executor)
    run = {"job": job.model_dump(mode="json"), "kind": job.kind}
    write_record(job.output, RUN_FILE, run)
    done: dict[str, str] = {}

    def report(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    with stop_recorded(events, lambda: f"{len(done)} of {len(tasks)} targets done", lambda: {"targets": sorted(done)}):
        for name, record in _executor(executor, job, address, report)(tasks):
            done[name] = storage.join(job.output, "networks", f"{name}.safetensors")
            events.write("finished target", target=name, sha256=record["sha256"], last=record["last"])
            report(f"{name}: {done[name]}")
    tuned = Tuned(job.name, job.output, done, time.monotonic() - started)
    write_record(job.output, SUMMARY_FILE, asdict(tuned))
    events.write("finished", targets=sorted(done))
    return tuned


def _refuse_edits(output: str) -> None:
    """Raise OutputError if the output holds an edit run, whose ``run.json`` would be lost."""
    try:
        record = json.loads(storage.read_bytes(storage.join(output, RUN_FILE)))
    except ObjectMissing:
        return
    if record.get("kind") != "finetune":
        raise OutputError(f"{output} holds the results of an edit job; use another output")


def _task(job: FinetuneJob, target: TargetSpec) -> TargetTask:
    params = {**job.params, **target.params}
    plugins.check_params(FinetuneParams, params, f"target {target.name}: params")
    sources = target.manifest or job.manifest
    assert sources is not None  # validated by FinetuneJob
    return TargetTask(
        name=target.name,
        manifests=(sources,) if isinstance(sources, str) else sources,
        output=job.output,
        weights=job.weights,
        params=params,
        seed=job.seed,
        texts=_texts(target),
        fit=job.fit,
        mask=job.mask,
    )


def _texts(target: TargetSpec) -> Texts | None:
    if target.domain is not None:
        pair = domain(target.domain)
        return Texts(pair.source, pair.target)
    if target.source_prompt is None or target.prompt is None:
        return None
    return Texts(target.source_prompt, target.prompt)


def _executor(
    name: Executor, job: FinetuneJob, address: str | None, report: Callable[[str], None]
) -> Callable[[list[TargetTask]], Iterator[tuple[str, dict[str, Any]]]]:
    if name == "local":
        from retouch.models.devices import best_device

        return lambda tasks: ((task.name, tune(task, best_device(), report)) for task in tasks)
    from retouch.execution.executors.ray import finetune as ray_tasks

    return lambda tasks: ray_tasks.execute(tasks, job.ray, address)
