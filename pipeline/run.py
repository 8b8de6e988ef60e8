"""One job from start to end: plan, carry out, count, settle the results, report. Knows no row."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import pyarrow as pa
from rich.console import Console

from pipeline import figures, flights, lease, report, results, storage
from pipeline.config import EditJob
from pipeline.errors import Interrupted, OverBudget
from pipeline.events import Events
from pipeline.lease import Lease
from pipeline.plan import Plan, claimed, make_plan, open_run, refuse_another_job
from pipeline.progress import Tally, tally
from pipeline.redaction import redacted, redacted_all
from pipeline.schema import FAILURES, STATUSES, SUCCESS
from pipeline.terminate import terminated_like_interrupted

Executor = Literal["ray", "local"]
Execute = Callable[[Plan, dict[str, float]], Iterator[pa.Table]]  # the mapping gets the workers' figures
WORTH_STOPPING: Final = 50  # failed rows; a run with fewer is soon over and then shows them all


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
    retry_errors: Collection[str] = (),
    console: Console | None = None,
    lease_seconds: float = lease.SECONDS,
) -> Summary:
    """Answer every row of a job that is not answered yet.

    Args:
        job: the job.
        executor: Ray, or this process.
        address: of a running Ray cluster; else one is started here.
        limit: answer at most the manifest's first ``limit`` rows.
        retry_failed: rows answered with a failure are done again.
        retry_errors: so are those whose ``error_type`` is one of these.
        console: where progress is said.
        lease_seconds: after which a run that stands still may be taken over.

    Raises:
        StopRun: the job is wrong; nothing was started.
        OverBudget: more rows failed than the job allows, before all were done.
        Interrupted: stopped on the way, or another run is at work; the same call goes on from there.
    """
    console = console or Console(stderr=True)
    plan = make_plan(job, limit=limit, retry_failed=retry_failed, retry_errors=retry_errors)
    refuse_another_job(plan)
    with lease.held(job.output, after=plan.write.epoch - 1, seconds=lease_seconds) as ours:
        plan = claimed(plan, ours.epoch)
        open_run(plan)
        events = Events(plan.write.output)
        events.say("started", rows=plan.total, left=plan.left, executor=executor, epoch=plan.write.epoch)
        return _run(plan, ours, _executor(executor, address), events, console)


def _run(plan: Plan, ours: Lease, execute: Execute, events: Events, console: Console) -> Summary:
    summed: dict[str, float] = {}
    with tally(plan.job.name, plan.total, plan.total - plan.left, console) as counts:
        try:
            _carry_out(plan, lambda plan: execute(plan, summed), counts, events)
        except (Interrupted, KeyboardInterrupt) as error:
            events.say("stopped", reason=str(error) or "interrupted", answered=counts.done)
            if isinstance(error, Interrupted):
                raise
            raise Interrupted(f"stopped with {counts.done} more rows answered; the same command goes on") from None
        except Exception as error:
            events.say("stopped", reason=redacted(f"{type(error).__name__}: {error}")[:500], answered=counts.done)
            raise
        return _settle(plan, ours, counts, events, figures.as_record(summed))


def _carry_out(plan: Plan, execute: Callable[[Plan], Iterator[pa.Table]], counts: Tally, events: Events) -> None:
    if not plan.left:
        return
    with terminated_like_interrupted():
        for rows in execute(plan):
            counts.add(rows.select(["status", "error_type", "error_message", "edit_seconds"]).to_pylist())
            events.say("answered", now=False, rows=rows.num_rows, done=counts.done, failed=counts.failed)
            _keep_the_budget(plan, counts)


def _keep_the_budget(plan: Plan, counts: Tally) -> None:
    """Raise OverBudget as soon as the rows that are left cannot make the run's failure rate good any more."""
    allowed = plan.job.max_failure_rate * plan.total
    if counts.failed <= allowed or counts.failed < WORTH_STOPPING or counts.done == plan.left:
        return
    raise OverBudget(
        f"stopped: {counts.failed} rows failed, and max_failure_rate {plan.job.max_failure_rate:.1%} allows "
        f"{int(allowed)} of {plan.total}; commonest: {counts.commonest()}; mend, and run again with --retry-failed"
    )


def _settle(plan: Plan, ours: Lease, counts: Tally, events: Events, done: Mapping[str, Any]) -> Summary:
    """Make the results read once a key, prove that none is missing, and write summary and gallery."""
    output = plan.write.output
    ours.check()
    results.compact(output)
    results.sweep(output, ours.check)
    flights.sweep(output)
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
    record: dict[str, Any] = {**asdict(summary), "images_per_second": summary.images_per_second, "figures": done}
    storage.write_bytes(storage.join(output, report.SUMMARY_FILE), json.dumps(redacted_all(record), indent=1).encode())
    report.write(output, plan.job.manifests)
    events.say("finished", statuses=statuses, success=statuses[SUCCESS], exit_code=summary.exit_code, figures=done)
    return summary


def _executor(name: Executor, address: str | None) -> Execute:
    if name == "local":
        from pipeline.executors import local

        return local.execute
    from pipeline.executors import ray_data

    return lambda plan, summed: ray_data.execute(plan, address, summed)
