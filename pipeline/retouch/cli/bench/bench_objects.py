"""``retouch bench objects``: many small objects on a storage, by a bare client, by ours, and by each sink."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def register(bench: typer.Typer) -> None:
    """Add the command."""
    bench.command()(objects)


def objects(
    address: Annotated[str, typer.Argument(help="A folder on S3, or a local one; what is written is deleted again.")],
    count: Annotated[int, typer.Option("--objects", min=10, help="How many a round.")] = 1000,
    size: Annotated[int, typer.Option(min=1, help="Bytes of each.")] = 20_000,
) -> None:
    """Small objects a second that a storage takes and gives, by a bare client and by ours, and images by each sink."""
    from retouch.cli.bench.objects import measure

    typer.echo(json.dumps(measure(address, objects=count, size=size)))
