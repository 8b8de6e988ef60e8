"""The ``retouch`` command: its Typer app, the commands in their help panels, and ``main``."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer

from retouch.cli import (
    check,
    evaluate,
    export,
    imports,
    jobs,
    manifest,
    night,
    plan,
    plugins,
    report,
    row,
    run,
    schedule,
    schema,
    status,
    submit,
    verify,
    weights,
)
from retouch.cli.bench import command as bench

app = typer.Typer(name="retouch", no_args_is_help=True, pretty_exceptions_enable=False)

app.command(rich_help_panel="Run")(check.check)
app.command(rich_help_panel="Run")(plan.plan)
app.command(rich_help_panel="Run")(run.run)
app.command(rich_help_panel="Run")(evaluate.evaluate)

app.command(rich_help_panel="Inspect")(status.status)
app.command(rich_help_panel="Inspect")(verify.verify)
app.command(rich_help_panel="Inspect")(report.report)
app.command(rich_help_panel="Inspect")(row.row)

app.command(rich_help_panel="Data")(export.export)
app.add_typer(manifest.app, name="manifest", rich_help_panel="Data")
app.add_typer(imports.app, name="import", rich_help_panel="Data")
app.add_typer(weights.app, name="weights", rich_help_panel="Data")

app.command(rich_help_panel="Cluster")(submit.submit)
app.add_typer(jobs.app, name="jobs", rich_help_panel="Cluster")
app.command(rich_help_panel="Cluster")(schedule.schedule)
app.command(hidden=True)(night.night)

app.command(rich_help_panel="Develop")(plugins.plugins)
app.command(rich_help_panel="Develop")(schema.schema)
app.add_typer(bench.app, name="bench", rich_help_panel="Develop")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"retouch {version('retouch')}")
        raise typer.Exit


@app.callback()
def retouch(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Edit whole image datasets with diffusion models on Ray."""


def main(argv: list[str] | None = None) -> Any:
    """Run the command. A RetouchError is printed as one line and ends with its exit code; others with a traceback."""
    from retouch.errors import RetouchError
    from retouch.redaction import redacted_streams

    with redacted_streams():
        try:
            app(args=argv)
        except RetouchError as error:
            sys.stderr.write(f"retouch: {' '.join(str(error).split())}\n")
            sys.exit(error.exit_code)
        except Exception:
            traceback.print_exc()  # within redacted_streams, so that credentials are masked
            sys.exit(1)
