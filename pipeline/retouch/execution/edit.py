"""One job from start to end: plan, carry out, count, settle the results, report. Knows no row."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from retouch import storage, telemetry
from retouch.errors import Interrupted, OverBudget, OverCost
from retouch.execution import drift, incremental
from retouch.execution.cost_meter import Meter
from retouch.execution.incremental import Night
from retouch.execution.lifecycle import sigterm_as_interrupt
from retouch.execution.plan import Plan, claimed, make_plan, open_run, refuse_another_job, tries
from retouch.execution.progress import Mode, Tally, Voice, tally
from retouch.execution.summary import Summary
from retouch.execution.timing import Stopwatch
from retouch.execution.traces import SECONDS, TOLD, Crew, Listener
from retouch.execution.worker_log import Workers
from retouch.jobs import prices
from retouch.jobs.config import EditJob
from retouch.manifests import row_sets
from retouch.outputs import carry_over, in_flight, lease, results
from retouch.outputs.costs import total_spending
from retouch.outputs.event_log import EventLog, read_calls
from retouch.outputs.lease import Lease
from retouch.outputs.report import funnel, gallery
from retouch.outputs.report.selection import score_columns
from retouch.redaction import redacted, redacted_all
from retouch.schema import FAILURES, STATUSES, SUCCESS

Executor = Literal["ray", "local"]
Execute = Callable[[Plan, Listener], Iterator[pa.Table]]
WORTH_STOPPING: Final = 50  # failed rows; a run with fewer is soon over and then shows them all


def run(
    job: EditJob,
    *,
    executor: Executor = "ray",
    address: str | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    retry_errors: Collection[str] = (),
    console: Console | None = None,
    progress: Mode = "auto",
    lease_seconds: float = lease.SECONDS,
    price_table: str | None = None,
) -> Summary:
    """Answer every row of a job that is not answered yet.

    Args:
        job: the job.
        executor: Ray, or this process.
        address: of a running Ray cluster; else one is started here.
        limit: answer at most the manifest's first ``limit`` rows.
        retry_failed: rows answered with a failure are done again.
        retry_errors: so are those whose ``error_type`` is one of these.
        console: where progress is said; stderr if None.
        progress: how, see ``progress.Voice``.
        lease_seconds: after which a run that stands still may be taken over.
        price_table: see ``prices.load``.

    Raises:
        StopRun: the job is wrong; nothing was started.
        OverBudget: more rows failed than the job allows, before all were done.
        OverCost: the job's ``max_cost`` is spent.
        Interrupted: stopped on the way, or another run is at work; the same call goes on from there.
    """
    voice, watch = Voice(console or Console(stderr=True), progress), Stopwatch()
    table = prices.load(price_table)
    plan = make_plan(job, limit=limit, retry_failed=retry_failed, retry_errors=retry_errors)
    again = carry_over.retry_filter(retry_failed, retry_errors, tries(job))
    summary = _answer(plan, again, executor, address, table, voice, watch, lease_seconds)
    return replace(summary, timing=watch.parts())  # with the gallery, which is made from what was recorded


def _answer(
    plan: Plan,
    again: carry_over.RetryFilter,
    executor: Executor,
    address: str | None,
    table: prices.Prices,
    voice: Voice,
    watch: Stopwatch,
    lease_seconds: float,
) -> Summary:
    """Answer the rows that are left, under the lease of the output."""
    job = plan.job
    refuse_another_job(plan)
    plan, night = incremental.look_back(plan, again)
    for note in night.notes():
        voice.note(note)
    with lease.held(job.output, after=plan.write.epoch - 1, seconds=lease_seconds) as ours:
        plan = claimed(plan, ours.epoch)
        incremental.record(plan, night)
        open_run(plan)
        incremental.take_over(plan, night)
        meter = Meter(table, total_spending(read_calls(plan.write.output), table), job.max_cost)
        events = EventLog(plan.write.output)
        known = {"carried": night.carried.num_rows, "changes": night.changes.counts}
        events.write("started", rows=plan.total, left=plan.left, executor=executor, epoch=plan.write.epoch, **known)
        watch.planned()
        return _run(plan, night, ours, execution(executor, address), _Company(events, meter, voice, watch))


@dataclass(frozen=True)
class _Company:
    """What goes along with a run."""

    events: EventLog
    meter: Meter
    voice: Voice
    watch: Stopwatch

    def stopped(self, reason: str, counts: Tally) -> None:
        """Note why it did not come to its end."""
        self.events.write("stopped", reason=reason, answered=counts.done, spent=self.meter.facts())


def _run(plan: Plan, night: Night, ours: Lease, execute: Execute, along: _Company) -> Summary:
    summed: dict[str, float] = {}
    with tally(plan.job.name, plan.total, plan.total - plan.left, along.voice) as counts:
        try:
            _carry_out(plan, execute, counts, along, summed)
        except (Interrupted, KeyboardInterrupt) as error:
            along.stopped(str(error) or "interrupted", counts)
            if isinstance(error, Interrupted):
                raise
            raise Interrupted(f"stopped with {counts.done} more rows answered; the same command goes on") from None
        except Exception as error:
            along.stopped(redacted(f"{type(error).__name__}: {error}")[:500], counts)
            raise
        return _settle(plan, night, ours, counts, along, telemetry.as_record(summed))


def _carry_out(plan: Plan, execute: Execute, counts: Tally, along: _Company, summed: dict[str, float]) -> None:
    """Do the rows that are left; ``summed`` gets the workers' figures."""
    if not plan.left:
        return
    events, meter = along.events, along.meter
    workers = Workers(events, meter)

    def say(line: str) -> None:
        along.voice.note(f"{plan.job.name}: {line}")
        events.write("waiting", reason=line)

    def met(crew: Crew) -> None:
        along.watch.met()
        workers.met(crew)
        counts.met(crew.actors)

    try:
        with sigterm_as_interrupt(), meter.guarding():
            for rows in execute(plan, Listener(met, say, summed)):
                along.watch.saw(rows)
                workers.saw(rows)
                counts.add(rows.select(TOLD).to_pylist())
                edited = pc.sum(pc.struct_field(rows[SECONDS], "edit")).as_py() or 0.0
                told = {"rows": rows.num_rows, "done": counts.done, "failed": counts.failed, "spent": meter.facts()}
                events.write("answered", flush="by interval", edit_seconds=round(edited, 3), **told)
                _keep_the_budget(plan, counts)
                if meter.is_over and counts.done < plan.left:
                    raise OverCost("after a block")
    except OverCost:
        left = plan.left - counts.done
        raise meter.over(counts.done, left, plan.total - left, plan.total) from None


def _keep_the_budget(plan: Plan, counts: Tally) -> None:
    """Raise OverBudget as soon as the rows that are left cannot make the run's failure rate good any more."""
    allowed = plan.job.max_failure_rate * plan.total
    if counts.failed <= allowed or counts.failed < WORTH_STOPPING or counts.done == plan.left:
        return
    raise OverBudget(
        f"stopped: {counts.failed} rows failed, and max_failure_rate {plan.job.max_failure_rate:.1%} allows "
        f"{int(allowed)} of {plan.total}; commonest: {counts.commonest()}; mend, and run again with --retry-failed"
    )


def _settle(plan: Plan, night: Night, ours: Lease, counts: Tally, along: _Company, done: Mapping[str, Any]) -> Summary:
    """Make the results read once a key, prove that none is missing, and write summary and gallery."""
    output, paid, cost = plan.write.output, along.meter.facts(), along.meter.total
    ours.check()
    if plan.whole:
        results.retire(output, plan.requests, epoch=plan.write.epoch)
    results.compact(output)
    results.sweep(output, ours.check)
    in_flight.sweep(output)
    answers = row_sets.with_keys(results.read(output, ["key", *funnel.COLUMNS]), plan.requests)
    missing = row_sets.without_keys(plan.requests, answers)["key"]
    if len(missing):
        raise Interrupted(f"{len(missing)} rows came back without an answer, first {pc.min(missing)}; run it again")
    statuses = dict.fromkeys(STATUSES, 0) | results.count_statuses(answers["status"])
    summary = Summary(
        name=plan.job.name,
        output=plan.job.output,
        rows=plan.total,
        statuses=statuses,
        answered_now=counts.done,
        seconds=counts.seconds,
        edit_seconds=counts.edit_seconds,
        report=storage.join(plan.job.output, gallery.REPORT_FILE),
        failure_rate=sum(statuses[status] for status in FAILURES) / max(plan.total, 1),
        max_failure_rate=plan.job.max_failure_rate,
        carried=night.carried.num_rows,
        changes=night.changes.counts,
        drift=tuple(drift.measure(output, night, score_columns(plan.write.schema, plan.caller), plan.job.drift)),
        fail_on_drift=plan.job.drift.fail,
        cost=cost,
        currency=paid["currency"],
        funnel=funnel.funnel(answers),
        device_seconds=paid["seconds"],
        timing=along.watch.parts(),
    )
    record = redacted_all({**summary.record(), "figures": done})
    storage.write_bytes(storage.join(output, gallery.SUMMARY_FILE), json.dumps(record, indent=1).encode())
    gallery.write(output, plan.job.manifests)
    facts: dict[str, Any] = {
        "statuses": statuses,
        "success": statuses[SUCCESS],
        "exit_code": summary.exit_code,
        "spent": paid,
        "figures": done,
    }
    along.events.write("finished", **facts)
    return summary


def execution(name: Executor, address: str | None) -> Execute:
    """What carries out a plan: in this process, or with Ray."""
    if name == "local":
        from retouch.execution.executors import local

        return local.execute
    from retouch.execution.executors.ray import edit

    return lambda plan, heard: edit.execute(plan, address, heard)
