"""``retouch run``: run an edit, fine-tuning or training job."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retouch.cli.options import Cluster, Date, Executor, JobFile, Overrides, Prices, executor_named

if TYPE_CHECKING:
    from retouch.execution.summary import Summary
    from retouch.jobs.config import FinetuneJob, TrainJob


def run(
    job: JobFile,
    set_: Overrides = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Edit only the first N rows of the manifest.")] = None,
    executor: Executor = "ray",
    address: Cluster = None,
    retry_failed: Annotated[bool, typer.Option(help="Run failed rows again.")] = False,
    retry_error: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Run rows again that failed with this error class. Repeatable."),
    ] = None,
    date: Date = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0.0, help="Stop when all runs of this output have cost this much.")
    ] = None,
    prices: Prices = None,
    progress: Annotated[
        str,
        typer.Option(help="auto (a bar on a terminal), plain, json (stdout has one JSON object per line) or quiet."),
    ] = "auto",
) -> None:
    """Run a job. Running it again resumes where it left off."""
    from retouch.errors import ConfigError
    from retouch.jobs.config import EvaluateJob, FinetuneJob, TrainJob, load_job

    chosen = executor_named(executor)
    loaded = load_job(job, [*(set_ or ()), *([] if max_cost is None else [f"max_cost={max_cost}"])], date)
    if isinstance(loaded, EvaluateJob):
        raise ConfigError(f"{job} is of kind evaluate; run: retouch evaluate {job}")
    if isinstance(loaded, FinetuneJob | TrainJob):
        if limit is not None or retry_failed or retry_error or progress != "auto":
            raise ConfigError(
                f"{job} is of kind {loaded.kind}, which has no rows; "
                "leave out --limit, --retry-failed, --retry-error and --progress"
            )
        if isinstance(loaded, FinetuneJob):
            _finetune(loaded, chosen, address)
        else:
            _train(loaded, chosen, address)
        return
    from rich.console import Console

    from retouch.execution.edit import run as run_job
    from retouch.execution.progress import mode_of

    mode = mode_of(progress)
    summary = run_job(
        loaded,
        executor=chosen,
        address=address,
        limit=limit,
        retry_failed=retry_failed,
        retry_errors=frozenset(retry_error or ()),
        price_table=prices,
        console=Console(stderr=mode != "json"),
        progress=mode,
    )
    if mode in ("auto", "plain"):
        _print_summary(summary)
    elif mode == "json":
        typer.echo(json.dumps({"event": "finished", **summary.record()}))
    raise typer.Exit(summary.exit_code)


def _finetune(job: FinetuneJob, executor: Literal["ray", "local"], address: str | None) -> None:
    from retouch.execution.finetune import finetune

    tuned = finetune(job, executor=executor, address=address)
    typer.echo(f"targets: {len(tuned.targets)} done in {tuned.seconds:.1f} s")
    for name, file in tuned.targets.items():
        typer.echo(f"{name}: {file} (contact sheet: {file.removesuffix('.safetensors')}-sheet.png)")


def _train(job: TrainJob, executor: Literal["ray", "local"], address: str | None) -> None:
    from retouch.execution.train import train

    trained = train(job, executor=executor, address=address)
    typer.echo(f"updates: {trained.steps}, last loss {trained.loss:.4f}, {trained.seconds:.1f} s in this start")
    typer.echo(f"networks: {trained.networks} (an editor's weights; loss curve: {trained.output}/losses.png)")


def _print_summary(summary: Summary) -> None:
    from retouch.execution.tracing import phases_line

    statuses = (f"{count} {name}" for name, count in summary.statuses.items() if count or name == "success")
    typer.echo(f"rows: {summary.rows} = {', '.join(statuses)}")
    typer.echo(
        f"this run: {summary.answered_now} rows in {summary.seconds:.1f} s "
        f"({summary.images_per_second:.2f} images/s, start-up included)"
    )
    typer.echo(phases_line(summary.timing))
    if summary.cost is not None and summary.device_seconds:
        typer.echo(f"cost: {summary.cost:.4g} {summary.currency}, all runs of this output")
    typer.echo(f"gallery: {summary.report}")
    for score in summary.moved:
        typer.echo(f"score drift: {score.text()}", err=True)
    if summary.failure_rate > summary.max_failure_rate:
        typer.echo(
            f"failures: {summary.failure_rate:.1%} of rows, over max_failure_rate {summary.max_failure_rate:.1%}; "
            f"see the gallery, fix the inputs, then run again with --retry-failed",
            err=True,
        )
