"""``retouch plan``: estimate a job's cost before running it."""

from __future__ import annotations

import json
from typing import Annotated, Final

import typer

from retouch.cli.options import Cluster, Date, Executor, JobFile, Overrides, Prices, executor_named

SAMPLE: Final = 200  # remaining rows that are checked unless --sample or --all is given


def plan(
    job: JobFile,
    set_: Overrides = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Plan only the first N rows of the manifest.")] = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Check N of the remaining rows, the same ones every time.")
    ] = SAMPLE,
    all_: Annotated[bool, typer.Option("--all", help="Check all remaining rows.")] = False,
    gpus: Annotated[str | None, typer.Option(help="Predict for this many GPUs (actors): N, or N,N,...")] = None,
    prices: Prices = None,
    executor: Executor = "ray",
    address: Cluster = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    date: Date = None,
) -> None:
    """Estimate a job's failures, hours, cost, storage and wall time from a few real passes, without running it."""
    from retouch.errors import ConfigError
    from retouch.execution.incremental import find_baseline
    from retouch.execution.plan import make_plan, max_candidates, refuse_another_job
    from retouch.execution.planning.outlook import cost_report
    from retouch.jobs.config import EditJob, load_job
    from retouch.jobs.prices import load
    from retouch.outputs.carry_over import retry_filter

    chosen, counts, table = executor_named(executor), _gpu_counts(gpus), load(prices)
    loaded = load_job(job, set_ or (), date)
    if not isinstance(loaded, EditJob):
        raise ConfigError(f"{job} is of kind {loaded.kind}; retouch plan takes jobs of kind edit")
    made = make_plan(loaded, limit=limit)
    refuse_another_job(made)
    # Rows that are carried over from an earlier run cost nothing.
    made, _ = find_baseline(made, retry_filter(False, (), max_candidates(loaded)), wait=False)
    report = cost_report(made, table, counts=counts, sample=None if all_ else sample, executor=chosen, address=address)
    typer.echo(json.dumps(report.record()) if as_json else "\n".join(report.lines()))


def _gpu_counts(text: str | None) -> tuple[int, ...]:
    from retouch.errors import ConfigError

    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--gpus {text!r} is not a list of numbers; write --gpus 8 or --gpus 1,8,64")
    return tuple(dict.fromkeys(map(int, parts)))
