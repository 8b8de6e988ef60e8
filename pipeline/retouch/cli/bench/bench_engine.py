"""``retouch bench engine``: the editors alone, without Ray and files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer


def register(bench: typer.Typer) -> None:
    """Add the command."""
    bench.command()(engine)


def engine(
    editor: Annotated[list[str] | None, typer.Option("--editor", help="All three, else. Repeatable.")] = None,
    size: Annotated[
        str, typer.Option(help="embedded (shipped weights), reduced or full width (random weights).")
    ] = "embedded",
    batch: Annotated[str, typer.Option(help="Entries a pass, with commas between.")] = "1,4,8,16,32",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of a walk; as shipped, 4 for reduced networks, else.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes of each.")] = 3,
    turns: Annotated[int, typer.Option(min=0, help="Of the comparison with other ways; 0 leaves it out.")] = 5,
    original: Annotated[
        Path | None, typer.Option(help="A clone of omriav/blended-diffusion, whose own loop is run beside ours.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; cuda where there is a GPU, else.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="A param of the editor, NAME=VALUE.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Images a second, seconds a network call, shares of time, memory, and use of the device's matrix rate."""
    from retouch.cli.bench import compare
    from retouch.cli.bench import engine as bench
    from retouch.cli.bench.subjects import EDITORS, subject
    from retouch.jobs.overrides import overridden
    from retouch.models.devices import best_device

    device = device or best_device()
    batches = _numbers(batch)
    params = overridden({}, set_ or [])
    records: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    for name in editor or EDITORS:
        one = subject(name, size, device, steps=steps, params=params)
        if turns:  # before the hooks
            ratios += _said(compare.compare(one, turns, original), as_json)
        records += _said(bench.measure(one, batches, repeats), as_json)
    if not as_json:
        typer.echo("\n\n".join(text for text in (bench.table(records), compare.table(ratios)) if text))


def _numbers(text: str) -> list[int]:
    from retouch.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--batch {text!r} is no list of numbers; write 1,4,8")
    return [int(part) for part in parts]


def _said(records: Iterable[dict[str, Any]], as_json: bool) -> list[dict[str, Any]]:
    """The records; as JSON each is printed when it is there, for the next may take minutes."""
    kept = []
    for record in records:
        kept.append(record)
        if as_json:
            typer.echo(json.dumps(record))
    return kept
