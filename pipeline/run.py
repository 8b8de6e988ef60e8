"""One job from start to end: plan, carry out, count, settle the results, report. Knows no row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
from rich.console import Console

from pipeline import report, results, storage
from pipeline.config import EditJob
from pipeline.errors import Interrupted
from pipeline.events import Events
from pipeline.plan import Plan, make_plan, open_run
from pipeline.progress import Tally, tally
from pipeline.schema import FAILURES, STATUSES, SUCCESS
from pipeline.terminate import terminated_like_interrupted

Executor = Literal["ray", "local"]


@dataclass(frozen=True)
class Summary:
    """How a run ended, over all rows of its output."""

    name: str
    output: str
    rows: int
    statuses: dict[str, int]
    answered_now: int  # rows that this call answered
    seconds: float  # of this call, the start of Ray and the loading of models included
    edit_seconds: float  # inside the engine, summed over rows
    report: str
    failure_rate: float
    max_failure_rate: float

    @property
    def images_per_second(self) -> float:
        """Answered rows a second of this call."""
        return self.answered_now / self.seconds if self.seconds else 0.0

    @property
    def exit_code(self) -> int:
        """0 where the failure budget held, else 1."""
        return 0 if self.failure_rate <= self.max_failure_rate else 1


def run(
    job: EditJob,
    *,
    executor: Executor = "ray",
    address: str | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    console: Console | None = None,
) -> Summary:
    """Answer every row of a job that is not answered yet.

    Raises:
        StopRun: the job is wrong; nothing was started.
        Interrupted: stopped on the way; the same call goes on from there.
    """
    console = console or Console(stderr=True)
    plan = make_plan(job, limit=limit, retry_failed=retry_failed)
    open_run(plan)
    events = Events(plan.write.output)
    events.say("started", rows=plan.total, left=plan.left, executor=executor, epoch=plan.write.epoch)
    with tally(job.name, plan.total, plan.total - plan.left, console) as counts:
        try:
            _carry_out(plan, _executor(executor, address), counts, events)
        except (Interrupted, KeyboardInterrupt) as error:
            events.say("stopped", reason=str(error) or "interrupted", answered=counts.done)
            if isinstance(error, Interrupted):
                raise
            raise Interrupted(f"stopped with {counts.done} more rows answered; the same command goes on") from None
        except Exception as error:
            events.say("stopped", reason=f"{type(error).__name__}: {error}"[:500], answered=counts.done)
            raise
        return _settle(plan, counts, events)


def _carry_out(plan: Plan, execute: Callable[[Plan], Iterator[pa.Table]], counts: Tally, events: Events) -> None:
    if not plan.left:
        return
    with terminated_like_interrupted():
        for rows in execute(plan):
            counts.add(rows.select(["status", "error_type", "edit_seconds"]).to_pylist())
            events.say("answered", now=False, rows=rows.num_rows, done=counts.done, failed=counts.failed)


def _settle(plan: Plan, counts: Tally, events: Events) -> Summary:
    """Make the results read once a key, prove that none is missing, and write summary and gallery."""
    output = plan.write.output
    results.compact(output)
    results.sweep(output)
    answered = results.answered(output)
    missing = [key for key in plan.requests["key"].to_pylist() if key not in answered]
    if missing:
        raise Interrupted(f"{len(missing)} rows came back without an answer, first {missing[0]!r}; run it again")
    asked = set(plan.requests["key"].to_pylist())
    statuses = dict.fromkeys(STATUSES, 0)
    for key, (_, status) in answered.items():
        statuses[status] += key in asked
    summary = Summary(
        name=plan.job.name,
        output=plan.job.output,
        rows=plan.total,
        statuses=statuses,
        answered_now=counts.done,
        seconds=counts.seconds,
        edit_seconds=counts.edit_seconds,
        report=storage.join(plan.job.output, report.REPORT_FILE),
        failure_rate=sum(statuses[status] for status in FAILURES) / max(plan.total, 1),
        max_failure_rate=plan.job.max_failure_rate,
    )
    record: dict[str, Any] = {**asdict(summary), "images_per_second": summary.images_per_second}
    storage.write_bytes(storage.join(output, report.SUMMARY_FILE), json.dumps(record, indent=1).encode())
    report.write(output)
    events.say("finished", statuses=statuses, success=statuses[SUCCESS], exit_code=summary.exit_code)
    return summary


def _executor(name: Executor, address: str | None) -> Callable[[Plan], Iterator[pa.Table]]:
    if name == "local":
        from pipeline.executors import local

        return local.execute
    from pipeline.executors import ray_data

    return lambda plan: ray_data.execute(plan, address)
