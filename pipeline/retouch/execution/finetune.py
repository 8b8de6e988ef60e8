"""A fine-tuning job from start to end: its targets, carried out here or on Ray, and what is known of them after.

Knows no network and no image.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console

from retouch import plugins, storage
from retouch.errors import Interrupted, ObjectMissing, OutputError
from retouch.execution.signals import terminated_like_interrupted
from retouch.jobs.config import FinetuneJob, TargetSpec
from retouch.jobs.finetune_params import FinetuneParams
from retouch.models import weights
from retouch.outputs import lease
from retouch.outputs.event_log import EventLog
from retouch.outputs.run_record import RUN_FILE
from retouch.redaction import redacted_all
from retouch.training.finetune.domains import domain
from retouch.training.finetune.target import TargetTask, tune
from retouch.training.finetune.texts import Texts

Executor = Literal["ray", "local"]
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class Tuned:
    """How a fine-tuning ended."""

    name: str
    output: str
    targets: dict[str, str]  # name to the address of its finished file
    seconds: float


def tasks_of(job: FinetuneJob) -> list[TargetTask]:
    """Every target with all that decides it, checked as far as that can be without reading images.

    Raises:
        ConfigError: unknown params or domain.
        WeightsError: weights that are not there.
    """
    weights.resolve(job.weights)
    return [_task(job, target) for target in job.targets]


def finetune(
    job: FinetuneJob, *, executor: Executor = "ray", address: str | None = None, console: Console | None = None
) -> Tuned:
    """Bring every target to its end; those that are there already are left as they are.

    Raises:
        StopRun: the job is wrong.
        Interrupted: stopped on the way, or another call is at work; the same call goes on from the last saved states.
    """
    tasks = tasks_of(job)
    _refuse_edits(job.output)
    with lease.held(job.output):
        return _carry_out(job, tasks, executor, address, console or Console(stderr=True))


def _carry_out(
    job: FinetuneJob, tasks: list[TargetTask], executor: Executor, address: str | None, console: Console
) -> Tuned:
    started = time.monotonic()
    events = EventLog(job.output)
    events.write("started", targets=[task.name for task in tasks], executor=executor)
    told = {"job": job.model_dump(mode="json"), "kind": job.kind}
    record = redacted_all(told)
    storage.write_bytes(storage.join(job.output, RUN_FILE), json.dumps(record, indent=1).encode())
    done: dict[str, str] = {}

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    try:
        with terminated_like_interrupted():
            for name, found in _executor(executor, job, address, say)(tasks):
                done[name] = storage.join(job.output, "networks", f"{name}.safetensors")
                events.write("finished target", target=name, sha256=found["sha256"], last=found["last"])
                say(f"{name}: {done[name]}")
    except KeyboardInterrupt:
        events.write("stopped", reason="interrupted", targets=sorted(done))
        raise Interrupted(f"stopped with {len(done)} of {len(tasks)} targets done; the same command goes on") from None
    except Exception as error:
        events.write("stopped", reason=f"{type(error).__name__}: {error}"[:500], targets=sorted(done))
        raise
    tuned = Tuned(job.name, job.output, done, time.monotonic() - started)
    summary = json.dumps(redacted_all(asdict(tuned)), indent=1).encode()
    storage.write_bytes(storage.join(job.output, SUMMARY_FILE), summary)
    events.write("finished", targets=sorted(done))
    return tuned


def _refuse_edits(output: str) -> None:
    """Leave an edit run's record where it is: what it proves is read from there.

    Raises:
        OutputError: the output is such a run's.
    """
    try:
        record = json.loads(storage.read_bytes(storage.join(output, RUN_FILE)))
    except ObjectMissing:
        return
    if record.get("kind") != "finetune":
        raise OutputError(f"{output} holds the answers of an edit job; give another output")


def _task(job: FinetuneJob, target: TargetSpec) -> TargetTask:
    params = {**job.params, **target.params}
    plugins.check_params(FinetuneParams, params, f"target {target.name}: params")
    sources = target.manifest or job.manifest
    assert sources is not None  # the job's model has seen to it
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
    name: Executor, job: FinetuneJob, address: str | None, say: Callable[[str], None]
) -> Callable[[list[TargetTask]], Iterator[tuple[str, dict[str, Any]]]]:
    if name == "local":
        from retouch.models.devices import best_device

        return lambda tasks: ((task.name, tune(task, best_device(), say)) for task in tasks)
    from retouch.execution.executors.ray import finetune as ray_tasks

    return lambda tasks: ray_tasks.execute(tasks, job.ray, address)
