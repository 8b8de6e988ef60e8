"""Run one edit job: plan, edit the rows that are left, finalize the results, report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from retouch import storage, telemetry
from retouch.errors import Interrupted, OverBudget, OverCost
from retouch.execution import drift, incremental
from retouch.execution.cost_meter import Meter
from retouch.execution.incremental import Baseline
from retouch.execution.lifecycle import RESUME, Executor, stop_recorded, write_record
from retouch.execution.plan import Plan, make_plan, max_candidates, open_run, plan_under_lease, refuse_another_job
from retouch.execution.progress import Mode, ProgressTracker, Reporter, tracking
from retouch.execution.summary import Summary
from retouch.execution.tracing import REPORTED, SECONDS, RunObserver, Stopwatch, WorkerPool
from retouch.execution.worker_log import WorkerLog
from retouch.jobs import prices
from retouch.jobs.config import EditJob
from retouch.manifests import row_sets
from retouch.outputs import carry_over, in_flight, lease, results
from retouch.outputs.costs import total_spending
from retouch.outputs.event_log import EventLog, read_calls
from retouch.outputs.lease import Lease
from retouch.outputs.report import funnel, gallery
from retouch.outputs.report.selection import score_columns
from retouch.outputs.run_record import SUMMARY_FILE
from retouch.schema import FAILURES, STATUSES, SUCCESS

Execute = Callable[[Plan, RunObserver], Iterator[pa.Table]]
MIN_FAILURES_TO_STOP: Final = 50  # failed rows; a run with fewer ends soon, and then shows all of them


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
    """Edit every row of a job that has no result yet.

    Args:
        job: the job.
        executor: Ray, or this process.
        address: of a running Ray cluster; None starts one here.
        limit: edit only the manifest's first ``limit`` rows.
        retry_failed: edit failed rows again.
        retry_errors: edit rows again whose failure has one of these ``error_type``.
        console: where progress is printed; stderr if None.
        progress: how, see ``progress.Reporter``.
        lease_seconds: after which a run that shows no sign of life may be taken over.
        price_table: see ``prices.load``.

    Raises:
        StopRun: the job is wrong; nothing was started.
        OverBudget: more rows failed than the job allows, before all were done.
        OverCost: the job's ``max_cost`` is spent.
        Interrupted: stopped early, or another run is active on the output; the same call resumes.
    """
    reporter, watch = Reporter(console or Console(stderr=True), progress), Stopwatch()
    table = prices.load(price_table)
    plan = make_plan(job, limit=limit, retry_failed=retry_failed, retry_errors=retry_errors)
    retries = carry_over.retry_filter(retry_failed, retry_errors, max_candidates(job))
    refuse_another_job(plan)
    plan, baseline = incremental.find_baseline(plan, retries)
    for note in baseline.notes():
        reporter.message(note)
    with lease.held(job.output, after=plan.write.epoch - 1, seconds=lease_seconds) as held:
        plan = plan_under_lease(plan, held.epoch)
        edit_run = EditRun(plan, baseline, held, table, reporter, watch)
        edit_run.prepare(executor)
        with tracking(job.name, plan.total, plan.total - plan.left, reporter) as tracker:
            edit_run.execute(executor_function(executor, address), tracker)
            summary = edit_run.finalize(tracker)
    return replace(summary, timing=watch.phases())  # includes the gallery, which shows the phases before it


class EditRun:
    """One call of ``retouch run`` on the output whose lease it holds.

    Args:
        plan: of the rows that are left.
        baseline: what earlier runs contribute.
        held: the lease.
        table: of prices.
        reporter: prints messages.
        watch: times the phases.
    """

    def __init__(
        self, plan: Plan, baseline: Baseline, held: Lease, table: prices.Prices, reporter: Reporter, watch: Stopwatch
    ) -> None:
        self.plan, self.baseline, self._lease = plan, baseline, held
        self._reporter, self._watch, self._prices = reporter, watch, table
        self._totals: dict[str, float] = {}  # telemetry of all workers

    def prepare(self, executor: str) -> None:
        """Write the run's record, commit the rows that earlier runs contribute, and open the event log."""
        plan, output = self.plan, self.plan.write.output
        incremental.write_changes(plan, self.baseline)
        open_run(plan)
        incremental.write_carried(plan, self.baseline)
        self.meter = Meter(self._prices, total_spending(read_calls(output), self._prices), plan.job.max_cost)
        self.events = EventLog(output)
        self.events.write(
            "started",
            rows=plan.total,
            left=plan.left,
            executor=executor,
            epoch=plan.write.epoch,
            carried=self.baseline.carried.num_rows,
            changes=self.baseline.changes.counts,
        )
        self._watch.on_planned()

    def execute(self, execute: Execute, tracker: ProgressTracker) -> None:
        """Edit the rows that are left.

        Raises:
            OverBudget, OverCost, Interrupted: the run stopped early; its event log has the reason.
        """
        with stop_recorded(self.events, lambda: f"{tracker.done} more rows done", lambda: self._counts(tracker)):
            if not self.plan.left:
                return
            try:
                with self.meter.guarding():
                    self._consume(execute(self.plan, self._observer(tracker)), tracker)
            except OverCost:
                left = self.plan.left - tracker.done
                raise self.meter.error(tracker.done, left, self.plan.total) from None

    def _observer(self, tracker: ProgressTracker) -> RunObserver:
        self._workers = WorkerLog(self.events, self.meter)

        def on_cluster_ready(pool: WorkerPool) -> None:
            self._watch.on_cluster_ready()
            self._workers.on_cluster_ready(pool)
            tracker.on_cluster_ready(pool.actors)

        def on_waiting(line: str) -> None:
            self._reporter.message(f"{self.plan.job.name}: {line}")
            self.events.write("waiting", reason=line)

        return RunObserver(on_cluster_ready, on_waiting, self._totals)

    def _consume(self, blocks: Iterator[pa.Table], tracker: ProgressTracker) -> None:
        """Record each committed block, and stop if a budget is exceeded."""
        for rows in blocks:
            self._watch.on_block(rows)
            self._workers.on_block(rows)
            tracker.add(rows.select(REPORTED).to_pylist())
            edit_seconds = pc.sum(pc.struct_field(rows[SECONDS], "edit")).as_py() or 0.0
            self.events.write(
                "answered",
                flush="by interval",
                edit_seconds=round(edit_seconds, 3),
                rows=rows.num_rows,
                done=tracker.done,
                failed=tracker.failed,
                spent=self.meter.facts(),
            )
            self._check_failure_budget(tracker)
            if self.meter.is_spent and tracker.done < self.plan.left:
                raise OverCost("after a block")

    def _check_failure_budget(self, tracker: ProgressTracker) -> None:
        """Raise OverBudget as soon as the run's failure rate cannot get below the limit any more."""
        allowed = self.plan.job.max_failure_rate * self.plan.total
        if tracker.failed <= allowed or tracker.failed < MIN_FAILURES_TO_STOP or tracker.done == self.plan.left:
            return
        raise OverBudget(
            f"stopped: {tracker.failed} rows failed, and max_failure_rate {self.plan.job.max_failure_rate:.1%} allows "
            f"{int(allowed)} of {self.plan.total}; most common: {tracker.most_common_errors()}; fix the inputs, then "
            "run again with --retry-failed"
        )

    def _counts(self, tracker: ProgressTracker) -> dict[str, Any]:
        return {"answered": tracker.done, "spent": self.meter.facts()}

    def finalize(self, tracker: ProgressTracker) -> Summary:
        """Merge the result files, check that no row is missing, and write the summary and the gallery.

        Raises:
            Interrupted: rows have no result, or a newer run took the output over.
        """
        plan, output = self.plan, self.plan.write.output
        self._lease.check()
        if plan.whole:
            results.retire(output, plan.requests, epoch=plan.write.epoch)
        results.compact(output)
        results.sweep(output, self._lease.check)
        in_flight.sweep(output)
        rows = row_sets.with_keys(results.read(output, ["key", *funnel.COLUMNS]), plan.requests)
        missing = row_sets.without_keys(plan.requests, rows)["key"]
        if len(missing):
            raise Interrupted(f"{len(missing)} rows have no result, first {pc.min(missing)}; {RESUME}")
        summary = self._summary(rows, tracker)
        figures, spent = telemetry.as_record(self._totals), self.meter.facts()
        write_record(output, SUMMARY_FILE, {**summary.record(), "figures": figures})
        gallery.write(output, plan.job.manifests)
        self.events.write(
            "finished",
            statuses=summary.statuses,
            success=summary.statuses[SUCCESS],
            exit_code=summary.exit_code,
            spent=spent,
            figures=figures,
        )
        return summary

    def _summary(self, rows: pa.Table, tracker: ProgressTracker) -> Summary:
        plan, baseline, spent = self.plan, self.baseline, self.meter.facts()
        statuses = dict.fromkeys(STATUSES, 0) | results.count_statuses(rows["status"])
        scores = score_columns(plan.write.schema, plan.caller)
        return Summary(
            name=plan.job.name,
            output=plan.job.output,
            rows=plan.total,
            statuses=statuses,
            answered_now=tracker.done,
            seconds=tracker.seconds,
            edit_seconds=tracker.edit_seconds,
            report=storage.join(plan.job.output, gallery.REPORT_FILE),
            failure_rate=sum(statuses[status] for status in FAILURES) / max(plan.total, 1),
            max_failure_rate=plan.job.max_failure_rate,
            carried=baseline.carried.num_rows,
            changes=baseline.changes.counts,
            drift=tuple(drift.measure(plan.write.output, baseline, scores, plan.job.drift)),
            fail_on_drift=plan.job.drift.fail,
            cost=self.meter.total,
            currency=spent["currency"],
            funnel=funnel.make_funnel(rows),
            device_seconds=spent["seconds"],
            timing=self._watch.phases(),
        )


def executor_function(name: Executor, address: str | None) -> Execute:
    """Return what executes a plan: this process, or Ray."""
    if name == "local":
        from retouch.execution.executors import local

        return local.execute
    from retouch.execution.executors.ray import edit

    return lambda plan, observer: edit.execute(plan, address, observer)
