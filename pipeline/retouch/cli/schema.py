"""``retouch schema``: the JSON Schema of job files, for completion and checks in a text editor."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    kind: Annotated[str | None, typer.Option(help="edit, finetune, train or evaluate. Default: all.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables instead.")] = False,
) -> None:
    """Print the JSON Schema of job files, including the parameters of the installed editors."""
    if markdown:
        from retouch.jobs.reference import job_reference

        typer.echo(job_reference(kind), nl=False)
        return
    from retouch.jobs.schema import job_schema

    typer.echo(json.dumps(job_schema(kind), indent=1))
