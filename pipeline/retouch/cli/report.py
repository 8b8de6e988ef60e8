"""``retouch report``: write a run's gallery, or compare several runs."""

from __future__ import annotations

from typing import Annotated

import typer


def report(
    outputs: Annotated[
        list[str], typer.Argument(help="Output folder of a run; with several, they are compared key by key.")
    ],
) -> None:
    """Write a run's gallery as one self-contained page, report.html; with several outputs, compare.html."""
    from retouch.outputs.report.gallery import write

    typer.echo(write(outputs[0], others=outputs[1:]))
