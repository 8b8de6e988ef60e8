"""The command. Knows names and options; imports what does the work only when it is asked for."""

from __future__ import annotations

import json
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retouch.cli import export, imports, manifest, plan, plugins, schedule, schema, status, submit, weights
from retouch.cli.bench import bench

if TYPE_CHECKING:
    from collections.abc import Mapping

    from retouch.execution.summary import Summary
    from retouch.jobs.config import FinetuneJob, TrainJob

app = typer.Typer(
    name="retouch",
    help="Edit whole image datasets with diffusion models on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

schema.register(app)
plan.register(app)
status.register(app)
weights.register(app)
bench.register(app)
imports.register(app)
manifest.register(app)
export.register(app)
submit.register(app)

Date = Annotated[str | None, typer.Option(help="{date} in addresses: YYYY-MM-DD; else RETOUCH_DATE, else today, UTC.")]
Output = Annotated[str, typer.Argument(help="A run's output folder: local, s3://, or any fsspec URL.")]


@app.command()
def run(
    job: Annotated[str, typer.Argument(help="Job file (YAML).")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Answer the manifest's first N rows only.")] = None,
    executor: Annotated[str, typer.Option(help="ray or local (in this process).")] = "ray",
    address: Annotated[str | None, typer.Option(help="A running cluster: auto, or ray://host:10001.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Do rows again that were answered with a failure.")] = False,
    retry_error: Annotated[
        list[str] | None, typer.Option(help="Do rows again that failed with this error class only. Repeatable.")
    ] = None,
    date: Date = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0.0, help="Stop when all runs of the output cost this; the job's max_cost.")
    ] = None,
    prices: Annotated[str | None, typer.Option(help="Price table (YAML); else RETOUCH_PRICES, else ours.")] = None,
    progress: Annotated[
        str, typer.Option(help="auto (a bar on a terminal), plain, json (all of stdout, an object a line) or quiet.")
    ] = "auto",
) -> None:
    """Answer every row of a job, or train its networks; run again, it goes on where it stopped."""
    from retouch.errors import ConfigError
    from retouch.jobs.config import EvaluateJob, FinetuneJob, TrainJob, load_job

    where = _where(executor)
    loaded = load_job(job, [*(set_ or ()), *([] if max_cost is None else [f"max_cost={max_cost}"])], date)
    if isinstance(loaded, EvaluateJob):
        raise ConfigError(f"{job} is an evaluation: retouch evaluate {job}")
    if isinstance(loaded, FinetuneJob | TrainJob):
        if limit is not None or retry_failed or retry_error or progress != "auto":
            what = "fine-tuning" if isinstance(loaded, FinetuneJob) else "training"
            raise ConfigError(
                f"{job} is a {what}, which has no rows: leave --limit, --retry-failed, -error and --progress out"
            )
        if isinstance(loaded, FinetuneJob):
            _finetune(loaded, where, address)
        else:
            _train(loaded, where, address)
        return
    from rich.console import Console

    from retouch.execution.edit import run as run_job
    from retouch.execution.progress import mode_of

    mode = mode_of(progress)
    summary = run_job(
        loaded,
        executor=where,
        address=address,
        limit=limit,
        retry_failed=retry_failed,
        retry_errors=frozenset(retry_error or ()),
        price_table=prices,
        console=Console(stderr=mode != "json"),
        progress=mode,
    )
    if mode in ("auto", "plain"):
        _say_summary(summary)
    elif mode == "json":
        typer.echo(json.dumps({"event": "finished", **summary.record()}))
    raise typer.Exit(summary.exit_code)


def _say_summary(summary: Summary) -> None:
    from retouch.execution.timing import line as time_line

    _say_counts(summary.rows, summary.statuses)
    typer.echo(
        f"answered now: {summary.answered_now} in {summary.seconds:.1f} s "
        f"({summary.images_per_second:.2f} images/s, start included)"
    )
    typer.echo(time_line(summary.timing))
    if summary.cost is not None and summary.device_seconds:
        typer.echo(f"cost: {summary.cost:.4g} {summary.currency}, all runs of this output")
    typer.echo(f"gallery: {summary.report}")
    for score in summary.moved:
        typer.echo(f"moved since earlier nights: {score.text()}", err=True)
    if summary.failure_rate > summary.max_failure_rate:
        typer.echo(
            f"failures: {summary.failure_rate:.1%} of rows, over max_failure_rate {summary.max_failure_rate:.1%}; "
            f"see the gallery, mend, and run again with --retry-failed",
            err=True,
        )


@app.command()
def check(
    target: Annotated[str, typer.Argument(help="Manifest (Parquet file, folder or glob), or job file (YAML).")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. Repeatable.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Look at N rows only, the same ones every time.")] = None,
    date: Date = None,
) -> None:
    """Say which rows would fail, and how, before a GPU is taken; of a job, whether all that it names can be loaded."""
    from retouch.execution.check import check as look_over

    found = look_over(target, set_ or (), sample=sample, date=date)
    typer.echo(found.text())
    raise typer.Exit(found.exit_code)


@app.command()
def verify(output: Output) -> None:
    """Prove from storage that every row asked for is answered exactly once and its image is as recorded."""
    from retouch.errors import StorageError
    from retouch.outputs.results import verify as verify_output
    from retouch.outputs.run_record import read_run, version_of
    from retouch.outputs.verify import leave_proof

    read_run(output)  # a folder without a run would prove that nothing was asked and nothing answered
    proof = verify_output(output)
    typer.echo(proof.text())
    try:
        typer.echo(f"proof: {leave_proof(output, proof, version_of('retouch'))}")
    except StorageError as error:
        typer.echo(f"the proof could not be left there: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(0 if proof.ok else 1)


@app.command()
def row(
    output: Output,
    key: Annotated[str, typer.Argument(help="Key of a row that is answered there.")],
    save: Annotated[str | None, typer.Option(help="Write the image that came out to this file.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a field of the recorded job.")] = None,
) -> None:
    """Run one row again from its run's record, here, and say identical, within tolerance or different."""
    from retouch import storage
    from retouch.execution.rerun import rerun

    again = rerun(output, key, set_ or ())
    typer.echo(again.text())
    if save is not None and again.image is not None:
        storage.write_bytes(save, again.image)
        typer.echo(f"image: {save}")
    elif save is not None:
        typer.echo("there is no image to save: the row failed again", err=True)
    raise typer.Exit(0 if again.reproduced else 1)


@app.command()
def report(
    outputs: Annotated[list[str], typer.Argument(help="Output folder; more of them are shown beside it, key by key.")],
) -> None:
    """Write the gallery: one self-contained HTML page, report.html, or compare.html where there are several outputs."""
    from retouch.outputs.report.gallery import write

    typer.echo(write(outputs[0], beside=outputs[1:]))


@app.command()
def evaluate(
    job: Annotated[str, typer.Argument(help="Job file (YAML) of kind evaluate.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. Repeatable.")] = None,
    executor: Annotated[str, typer.Option(help="ray or local (in this process).")] = "ray",
    address: Annotated[str | None, typer.Option(help="A running cluster: auto, or ray://host:10001.")] = None,
    date: Date = None,
) -> None:
    """Metrics over a finished set of images; run again, it computes only what is not there."""
    from retouch.errors import ConfigError
    from retouch.execution.evaluate import METRICS_FILE
    from retouch.execution.evaluate import evaluate as evaluate_job
    from retouch.jobs.config import EvaluateJob, load_job

    where = _where(executor)
    loaded = load_job(job, set_ or (), date)
    if not isinstance(loaded, EvaluateJob):
        raise ConfigError(f"{job} is of kind {loaded.kind}, not evaluate; retouch run does it")
    done = evaluate_job(loaded, executor=where, address=address)
    _say_metrics(done.record)
    typer.echo(f"{done.seconds:.1f} s; ids and what was not counted: {loaded.output}/{METRICS_FILE}")


plugins.register(app)
schedule.register(app)


def _where(executor: str) -> Literal["ray", "local"]:
    from retouch.errors import ConfigError

    if executor not in ("ray", "local"):
        raise ConfigError(f"no executor named {executor!r}; there are: ray, local")
    return "ray" if executor == "ray" else "local"


def _say_metrics(record: Mapping[str, Any]) -> None:
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
            typer.echo(f"{name:24} {mean:>12}  {column['images']} images{_said_counts(column.get('values', {}))}")
    lacking = [(metric["name"], metric["uncounted"]) for metric in record["metrics"]]
    for what, rows in [*lacking, ("row metrics", record["row_errors"])]:
        for key, reason in list(rows["keys"].items())[:1]:
            typer.echo(f"{what}: {rows['count']} images not counted, first {key}: {reason}", err=True)


def _said_counts(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count} {value}' for value, count in counts.items())})" if counts else ""


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


def _say_counts(rows: int, statuses: dict[str, int]) -> None:
    parts = ", ".join(f"{count} {name}" for name, count in statuses.items() if count or name == "success")
    typer.echo(f"rows: {rows} = {parts}")


def main(argv: list[str] | None = None) -> Any:
    """Entry point. Errors of ours are one line and their exit code; others keep their traceback."""
    from retouch.cli import pandas_later
    from retouch.errors import RetouchError
    from retouch.redaction import redacted_streams

    pandas_later.put_off()
    with redacted_streams():
        try:
            app(args=argv)
        except RetouchError as error:
            sys.stderr.write(f"retouch: {' '.join(str(error).split())}\n")
            sys.exit(error.exit_code)
        except Exception:
            traceback.print_exc()  # here, where credentials are left out of it
            sys.exit(1)
