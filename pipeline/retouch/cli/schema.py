"""``retouch schema``: what a job file may say, for an editor to complete and check. Knows no field."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(schema)


def schema(
    kind: Annotated[str | None, typer.Option(help="edit, finetune, train or evaluate; else all.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables for people instead.")] = False,
) -> None:
    """Print the JSON Schema of job files, with the params of the installed editors."""
    if markdown:
        from retouch.jobs.job_reference import job_reference

        typer.echo(job_reference(kind), nl=False)
        return
    from retouch.jobs.schema import job_schema

    typer.echo(json.dumps(job_schema(kind), indent=1))
