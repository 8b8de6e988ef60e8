"""``retouch check``: find what would fail before a run, on the CPU."""

from __future__ import annotations

from typing import Annotated

import typer

from retouch.cli.options import Date, Overrides


def check(
    target: Annotated[str, typer.Argument(help="Manifest (Parquet file, folder or glob), or job file (YAML).")],
    set_: Overrides = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Check N rows only, the same ones every time.")] = None,
    date: Date = None,
) -> None:
    """Check a manifest or job without a GPU: list rows that would fail, and verify that weights and plug-ins load."""
    from retouch.execution.check import check as run_checks

    found = run_checks(target, set_ or (), sample=sample, date=date)
    typer.echo(found.text())
    raise typer.Exit(found.exit_code)
