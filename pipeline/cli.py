"""The command. Knows names and options; imports what does the work only when it is asked for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pipeline.config import FinetuneJob

app = typer.Typer(
    name="retouch",
    help="Edit whole image datasets with diffusion models on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Output = Annotated[str, typer.Argument(help="A run's output folder: local, s3://, or any fsspec URL.")]


@app.command()
def run(
    job: Annotated[str, typer.Argument(help="Job file (YAML).")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Answer the manifest's first N rows only.")] = None,
    executor: Annotated[str, typer.Option(help="ray or local (in this process).")] = "ray",
    address: Annotated[str | None, typer.Option(help="A running cluster: auto, or ray://host:10001.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Do rows again that were answered with a failure.")] = False,
) -> None:
    """Answer every row of a job, or fine-tune its networks; run again, it goes on where it stopped."""
    from pipeline.config import FinetuneJob, load_job
    from pipeline.errors import ConfigError

    if executor not in ("ray", "local"):
        raise ConfigError(f"no executor named {executor!r}; there are: ray, local")
    where: Literal["ray", "local"] = "ray" if executor == "ray" else "local"
    loaded = load_job(job, set_ or ())
    if isinstance(loaded, FinetuneJob):
        if limit is not None or retry_failed:
            raise ConfigError(f"{job} is a fine-tuning, which has no rows: leave --limit and --retry-failed out")
        _finetune(loaded, where, address)
        return
    from pipeline.run import run as run_job

    summary = run_job(loaded, executor=where, address=address, limit=limit, retry_failed=retry_failed)
    _say_counts(summary.rows, summary.statuses)
    typer.echo(
        f"answered now: {summary.answered_now} in {summary.seconds:.1f} s "
        f"({summary.images_per_second:.2f} images/s, start included)"
    )
    typer.echo(f"gallery: {summary.report}")
    if summary.exit_code:
        typer.echo(
            f"failures: {summary.failure_rate:.1%} of rows, over max_failure_rate {summary.max_failure_rate:.1%}; "
            f"see the gallery, mend, and run again with --retry-failed",
            err=True,
        )
    raise typer.Exit(summary.exit_code)


@app.command()
def status(output: Output) -> None:
    """How far a run is, read from storage: from any machine, during the run or after."""
    from pipeline.status import read_status

    typer.echo(read_status(output).text())


@app.command()
def verify(output: Output) -> None:
    """Prove from storage that every row asked for is answered exactly once and its image is as recorded."""
    from pipeline.plan import read_run
    from pipeline.results import verify as verify_output

    read_run(output)  # a folder without a run would prove that nothing was asked and nothing answered
    proof = verify_output(output)
    typer.echo(proof.text())
    raise typer.Exit(0 if proof.ok else 1)


@app.command()
def report(outputs: Annotated[list[str], typer.Argument(help="Output folders.")]) -> None:
    """Write the gallery, one self-contained HTML page an output."""
    from pipeline.report import write

    for output in outputs:
        typer.echo(write(output))


@app.command()
def plugins() -> None:
    """Installed editors, metrics and sinks."""
    from pipeline.plugins import KINDS, available

    for kind in KINDS:
        for name, point in sorted(available(kind).items()):
            typer.echo(f"{kind[:-1]:8} {name:20} {point.value}")


def _finetune(job: FinetuneJob, executor: Literal["ray", "local"], address: str | None) -> None:
    from pipeline.training import finetune

    tuned = finetune(job, executor=executor, address=address)
    typer.echo(f"targets: {len(tuned.targets)} done in {tuned.seconds:.1f} s")
    for name, file in tuned.targets.items():
        typer.echo(f"{name}: {file} (contact sheet: {file.removesuffix('.safetensors')}-sheet.png)")


def _say_counts(rows: int, statuses: dict[str, int]) -> None:
    parts = ", ".join(f"{count} {name}" for name, count in statuses.items() if count or name == "success")
    typer.echo(f"rows: {rows} = {parts}")


def main(argv: list[str] | None = None) -> Any:
    """Entry point. Errors of ours are one line and their exit code; others keep their traceback."""
    from pipeline.errors import RetouchError

    try:
        app(args=argv)
    except RetouchError as error:
        sys.stderr.write(f"retouch: {' '.join(str(error).split())}\n")
        sys.exit(error.exit_code)
