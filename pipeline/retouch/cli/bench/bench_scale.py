"""``retouch bench scale``: what a run's own work costs when rows are many and edits cost nothing."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(bench: typer.Typer) -> None:
    """Add the command."""
    bench.command()(scale)


def scale(
    rows: Annotated[list[int] | None, typer.Option("--rows", min=100, help="Rows of a manifest. Repeatable.")] = None,
    executor: Annotated[str, typer.Option(help="ray or local (in this process).")] = "ray",
    sink: Annotated[str, typer.Option(help="files or tar.")] = "tar",
    folder: Annotated[str | None, typer.Option(help="Where to work; a folder that is removed again, else.")] = None,
) -> None:
    """Rows a second, the driver's memory, and the seconds to plan, resume and verify, for manifests of each size."""
    from retouch.cli.bench.scale import measure

    for line in measure(rows or [10_000, 100_000], executor=executor, sink=sink, folder=folder):
        typer.echo(json.dumps(line))
