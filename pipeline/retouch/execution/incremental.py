"""What earlier runs contribute to a run: rows carried over, and how its requests differ from theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from retouch.execution.plan import Plan
from retouch.jobs.addresses import NO_CARRY
from retouch.jobs.identity import job_identity
from retouch.manifests import row_sets
from retouch.outputs import carry_over, changes, results
from retouch.outputs.carry_over import EarlierRun, RetryFilter
from retouch.outputs.changes import Changes

ROWS_PER_FILE: Final = 100_000  # carried rows that are committed at once


@dataclass(frozen=True)
class Baseline:
    """What a run starts from: the results and requests of the runs before it."""

    carried: pa.Table  # result rows of earlier runs, as rows of this run
    changes: Changes
    is_resumed: bool  # the run resumes an earlier call on its output, which has recorded ``changes``
    runs: tuple[EarlierRun, ...] = ()  # of the same job, newest first
    refused: tuple[str, ...] = ()  # outputs of other jobs, each with the difference

    def notes(self) -> list[str]:
        """Return messages for the start of the run; none if there is no run before it."""
        notes = [f"not carried over, because it is another job: {refused}" for refused in self.refused[:1]]
        if self.changes.against is not None:
            notes.append(self.changes.text())
        if self.carried.num_rows:
            notes.append(f"{self.carried.num_rows} rows carried over")
        return notes


def find_baseline(plan: Plan, retried: RetryFilter, *, wait: bool = True) -> tuple[Plan, Baseline]:
    """Return the plan without the rows that can be carried over, and the run's baseline. Nothing is written.

    Args:
        plan: of the rows that have no result in the run's own output.
        retried: selects the rows of earlier runs that are edited again (``carry_over.retry_filter``).
        wait: wait until an active earlier run ends.

    Raises:
        Busy: an earlier run is still active; its rows would be paid for twice.
        StorageError: an earlier output cannot be read.
    """
    runs, refused = _earlier_runs(plan)
    if wait:
        carry_over.wait_for_runs(runs)
    schema = plan.write.schema
    reused = carry_over.reuse_rows(plan.todo, runs, schema, retried)
    left = row_sets.without(plan.todo, reused)
    restored = carry_over.restore_rows(left, results.read_removed(plan.job.output), schema, retried)
    carried = pa.concat_tables([reused, restored])
    plan = replace(plan, todo=row_sets.without(left, restored))
    found, is_resumed = _changes(plan, runs)
    return plan, Baseline(carried, found, is_resumed, tuple(runs), tuple(refused))


def write_changes(plan: Plan, baseline: Baseline) -> None:
    """Record the changes, unless the call that this run resumes has.

    Comes before the new requests are recorded: a resumed run is recognized by these.
    """
    if not baseline.is_resumed:
        changes.write(plan.write.output, baseline.changes, plan.write.epoch)


def write_carried(plan: Plan, baseline: Baseline) -> None:
    """Commit the carried rows. The run must hold the lease and have recorded its requests."""
    output, epoch = plan.write.output, plan.write.epoch
    for start in range(0, baseline.carried.num_rows, ROWS_PER_FILE):
        results.write_block(output, baseline.carried.slice(start, ROWS_PER_FILE), epoch=epoch)


def _changes(plan: Plan, runs: list[EarlierRun]) -> tuple[Changes, bool]:
    """Return how the requests changed, and whether the run resumes a call that recorded this."""
    output = plan.job.output
    own = results.read_requests(output)
    recorded = changes.history(output)
    if recorded and own.num_rows and row_sets.digest(own) == row_sets.digest(plan.requests) and _has_open(output, own):
        return changes.read(recorded[0]), True
    before, against = own, output
    if not own.num_rows and runs:
        before, against = results.read_requests(runs[0].output), runs[0].output
    found = changes.compare_requests(
        plan.requests, before, plan.todo, against if before.num_rows else None, whole=plan.whole
    )
    return found, False


def _has_open(output: str, requests: pa.Table) -> bool:
    """Return whether some of the requests have no result in the output."""
    return bool(row_sets.without(requests, results.read_done(output)).num_rows)


def _earlier_runs(plan: Plan) -> tuple[list[EarlierRun], list[str]]:
    pattern = plan.job.carry
    if pattern in NO_CARRY:
        return [], []
    return carry_over.find_earlier_runs(pattern, plan.job.output, job_identity(plan.job, plan.weights))
