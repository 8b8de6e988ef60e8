"""A run among the runs before it: what it takes over, and what is new since. Knows a plan, and no executor."""

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

ROWS_A_PART: Final = 100_000  # of what is taken over, committed at once


@dataclass(frozen=True)
class Night:
    """What a run begins with."""

    carried: pa.Table  # results rows that earlier runs gave
    changes: Changes
    begins: bool  # False: it goes on with what an earlier call on this output began
    runs: tuple[EarlierRun, ...] = ()  # earlier ones of the job, the newest first
    refused: tuple[str, ...] = ()  # outputs whose answers cannot be taken over, each with the reason

    def notes(self) -> list[str]:
        """For people, before the work starts; none where there is nothing before this run."""
        notes = [f"not taken over, for it is another job: {refused}" for refused in self.refused[:1]]
        if self.changes.against is not None:
            notes.append(self.changes.text())
        if self.carried.num_rows:
            notes.append(f"{self.carried.num_rows} answers taken over")
        return notes


def look_back(plan: Plan, again: RetryFilter, *, wait: bool = True) -> tuple[Plan, Night]:
    """The plan without the rows that earlier runs answered, and what it begins with. Reads, and writes nothing.

    Args:
        plan: with the rows that its own output does not answer.
        again: which answers are asked for again (``carry_over.retry_filter``).
        wait: for a run before it that is at work.

    Raises:
        Busy: the run before is at work; its rows would be paid for twice.
        StorageError: what is there cannot be read.
    """
    runs, refused = _earlier(plan)
    if wait:
        carry_over.wait_for_runs(runs)
    schema = plan.write.schema
    taken = carry_over.reuse_rows(plan.todo, runs, schema, again)
    left = row_sets.without(plan.todo, taken)
    back = carry_over.restore_rows(left, results.read_removed(plan.job.output), schema, again)
    carried = pa.concat_tables([taken, back])
    plan = replace(plan, todo=row_sets.without(left, back))
    return plan, _night(plan, carried, runs, refused)


def record(plan: Plan, night: Night) -> None:
    """Record what changed: before the new requests are, since a run that goes on is known by these."""
    if night.begins:
        changes.write(plan.write.output, night.changes, plan.write.epoch)


def take_over(plan: Plan, night: Night) -> None:
    """Commit what is taken over; the run's lease is held, and its requests are recorded."""
    output, epoch = plan.write.output, plan.write.epoch
    for start in range(0, night.carried.num_rows, ROWS_A_PART):
        results.write_block(output, night.carried.slice(start, ROWS_A_PART), epoch=epoch)


def _night(plan: Plan, carried: pa.Table, runs: list[EarlierRun], refused: list[str]) -> Night:
    output = plan.job.output
    own = results.read_requests(output)
    known = changes.history(output)
    if known and own.num_rows and row_sets.digest(own) == row_sets.digest(plan.requests) and _unanswered(output, own):
        return Night(carried, changes.read(known[0]), False, tuple(runs), tuple(refused))
    before, against = own, output
    if not own.num_rows and runs:
        before, against = results.read_requests(runs[0].output), runs[0].output
    found = changes.compare_requests(
        plan.requests, before, plan.todo, against if before.num_rows else None, whole=plan.whole
    )
    return Night(carried, found, True, tuple(runs), tuple(refused))


def _earlier(plan: Plan) -> tuple[list[EarlierRun], list[str]]:
    pattern = plan.job.carry
    if pattern in NO_CARRY:
        return [], []
    return carry_over.find_earlier_runs(pattern, plan.job.output, job_identity(plan.job, plan.weights))


def _unanswered(output: str, requests: pa.Table) -> bool:
    return bool(row_sets.without(requests, results.read_done(output)).num_rows)
