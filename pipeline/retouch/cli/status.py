"""``retouch status``: a run's progress, once or until it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from retouch.cli.options import OutputFolder, Prices

if TYPE_CHECKING:
    from retouch.outputs.status import Status


def status(
    output: OutputFolder,
    watch: Annotated[float | None, typer.Option(min=0.1, help="Read again every N seconds until the run ends.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per reading.")] = False,
    prices: Prices = None,
) -> None:
    """Show a run's progress, read from storage: from any machine, during the run and after it."""
    from retouch.jobs.prices import load
    from retouch.outputs.status import read_status

    table = load(prices)
    if watch is None:
        found = read_status(output, table)
        typer.echo(json.dumps(found.record()) if as_json else found.text())
        return
    _watch(readings(lambda: read_status(output, table), output, watch), as_json)


def readings(read: Callable[[], Status], output: str, interval: float) -> Iterator[Status]:
    """Yield a status every ``interval`` seconds until the run has ended or its lease is no longer renewed."""
    from dataclasses import replace

    from retouch.outputs import lease
    from retouch.outputs.status import DIED

    beat, since = lease.pulse(output), time.monotonic()
    while True:
        now = lease.pulse(output)
        if now != beat:
            beat, since = now, time.monotonic()
        found = read()
        if not found.is_over and time.monotonic() - since > lease.SECONDS:
            found = replace(found, state=DIED, seconds_left=None)
        yield found
        if found.is_over:
            return
        time.sleep(interval)


def _watch(found: Iterator[Status], as_json: bool) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if as_json or not console.is_terminal:
        for state in found:
            typer.echo(json.dumps(state.record()) if as_json else "; ".join(state.text().splitlines()[:3]))
        return
    with Live(console=console, auto_refresh=False) as live:
        for state in found:
            live.update(Text(state.text()), refresh=True)  # not markup: keys may contain square brackets
