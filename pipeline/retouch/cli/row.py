"""``retouch row``: reproduce one row of a run."""

from __future__ import annotations

from typing import Annotated

import typer

from retouch.cli.options import OutputFolder, Overrides


def row(
    output: OutputFolder,
    key: Annotated[str, typer.Argument(help="Key of a row that has a result in this output.")],
    save: Annotated[str | None, typer.Option(help="Write the new image to this file.")] = None,
    set_: Overrides = None,
) -> None:
    """Run one row of a finished run again on this machine and compare: identical, within tolerance or different."""
    from retouch import storage
    from retouch.execution.rerun import rerun

    again = rerun(output, key, set_ or ())
    typer.echo(again.text())
    if save is not None and again.image is not None:
        storage.write_bytes(save, again.image)
        typer.echo(f"image: {save}")
    elif save is not None:
        typer.echo("no image saved: the row failed again", err=True)
    raise typer.Exit(0 if again.reproduced else 1)
