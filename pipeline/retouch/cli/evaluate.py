"""``retouch evaluate``: metrics of a finished set of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from retouch.cli.options import Cluster, Date, Executor, JobFile, Overrides, executor_named

if TYPE_CHECKING:
    from collections.abc import Mapping


def evaluate(
    job: JobFile, set_: Overrides = None, executor: Executor = "ray", address: Cluster = None, date: Date = None
) -> None:
    """Compute metrics of a finished set of images. Running it again computes only what is missing."""
    from retouch.errors import ConfigError
    from retouch.execution.evaluate import METRICS_FILE
    from retouch.execution.evaluate import evaluate as evaluate_job
    from retouch.jobs.config import EvaluateJob, load_job

    chosen = executor_named(executor)
    loaded = load_job(job, set_ or (), date)
    if not isinstance(loaded, EvaluateJob):
        raise ConfigError(f"{job} is of kind {loaded.kind}, not evaluate; run: retouch run {job}")
    done = evaluate_job(loaded, executor=chosen, address=address)
    _print_metrics(done.record)
    typer.echo(f"{done.seconds:.1f} s; metric ids and skipped images: {loaded.output}/{METRICS_FILE}")


def _print_metrics(record: Mapping[str, Any]) -> None:
    found = record["results"]
    missing = "".join(f", {count} {kind}" for kind, count in found["missing"]["by"].items())
    typer.echo(f"images: {found['images']}{missing}")
    for metric in record["metrics"]:
        against = f" against {metric['reference']['images']}" if "reference" in metric else ""
        for name, value in metric["values"].items():
            typer.echo(f"{name:24} {value:12.4f}  {metric['images']} images{against}")
    for metric in record["row_metrics"]:
        for name, column in metric["values"].items():
            mean = "" if column.get("mean") is None else f"{column['mean']:.4f}"
            typer.echo(f"{name:24} {mean:>12}  {column['images']} images{_in_brackets(column.get('values', {}))}")
    skipped = [(metric["name"], metric["uncounted"]) for metric in record["metrics"]]
    for what, rows in [*skipped, ("row metrics", record["row_errors"])]:
        for key, reason in list(rows["keys"].items())[:1]:
            typer.echo(f"{what}: {rows['count']} images skipped, first {key}: {reason}", err=True)


def _in_brackets(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count} {value}' for value, count in counts.items())})" if counts else ""
