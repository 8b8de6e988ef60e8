"""``retouch bench``: time the editors alone and jobs through Ray on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

app = typer.Typer()

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per measurement.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda if there is a GPU.")]


@app.callback(invoke_without_command=True)
def engine_and_pipeline(context: typer.Context, device: Device = None) -> None:
    """Time this machine. Without a command: engine and pipeline in short form, one JSON object per line."""
    if context.invoked_subcommand is not None:
        return
    engine(batch="1,8", turns=0, device=device, as_json=True)
    pipeline(minutes=0.5, actors="1", simulated="", as_json=True)


@app.command()
def engine(
    editor: Annotated[
        list[str] | None,
        typer.Option("--editor", metavar="NAME", help="Editor to time. Default: all three. Repeatable."),
    ] = None,
    size: Annotated[
        str, typer.Option(help="Networks: embedded (shipped weights), reduced or full width (random weights).")
    ] = "embedded",
    batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,4,8,16,32",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampling steps. Default: as shipped; 4 for reduced networks.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes of each batch size.")] = 3,
    turns: Annotated[int, typer.Option(min=0, help="Turns of the comparison with other ways; 0 skips it.")] = 5,
    device: Device = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter of the editor. Repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time the editors alone: images per second, time per network call and part, memory, use of the matrix rate."""
    from retouch.cli.bench import compare
    from retouch.cli.bench import engine as bench
    from retouch.cli.bench.subjects import EDITORS, subject
    from retouch.jobs.overrides import apply_overrides
    from retouch.models.devices import best_device

    device = device or best_device()
    batches = _numbers("--batch", batch)
    params = apply_overrides({}, set_ or [])
    records: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    for name in editor or EDITORS:
        one = subject(name, size, device, steps=steps, params=params)
        if turns:  # before measure, whose hooks stay on the networks
            ratios += _printed(compare.compare(one, turns), as_json)
        records += _printed(bench.measure(one, batches, repeats), as_json)
    if not as_json:
        typer.echo("\n\n".join(text for text in (bench.table(records), compare.table(ratios)) if text))


@app.command()
def pipeline(
    job: Annotated[str, typer.Option(help="Job file whose editor, metrics and rows are timed.")] = (
        "jobs/quickstart.yaml"
    ),
    minutes: Annotated[float, typer.Option(min=0.01, help="Minimum minutes of work per number of actors.")] = 3.0,
    actors: Annotated[
        str, typer.Option(help="Numbers of actors with the job's editor, separated by commas; '' for none.")
    ] = "1,2",
    simulated: Annotated[
        str, typer.Option(help="Numbers of actors with an editor that only waits, on declared GPUs; '' for none.")
    ] = "1,2,4,8,16,64",
    latency: Annotated[float, typer.Option(min=0.001, help="Seconds per pass of the editor that only waits.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Time the same rows through the engine alone, a run on Ray and a plain Ray Data script; then simulated GPUs."""
    from retouch.cli.bench.pipeline import measure, simulate

    counts, simulated_counts = (
        _numbers(option, text) if text else [] for option, text in (("--actors", actors), ("--simulated", simulated))
    )
    if counts:
        for record in measure(job, minutes=minutes, actors=counts):
            typer.echo(json.dumps(record) if as_json else _line(record))
    if simulated_counts:
        for record in simulate(job, actors=simulated_counts, latency=latency):
            typer.echo(json.dumps(record) if as_json else _line(record))


def _numbers(option: str, text: str) -> list[int]:
    from retouch.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{option} {text!r} is not a list of numbers; write 1,4,8")
    return [int(part) for part in parts]


def _printed(records: Iterable[dict[str, Any]], as_json: bool) -> list[dict[str, Any]]:
    """Return the records. As JSON, print each as soon as it is measured: the next may take minutes."""
    kept = []
    for record in records:
        kept.append(record)
        if as_json:
            typer.echo(json.dumps(record))
    return kept


def _line(record: dict[str, Any]) -> str:
    """Format as ``ray, 2 actors: 72 rows in 91.20 s, 0.789 rows/s, 97.1% of the bare engine; plan 2.1 s, ...``."""
    text = (
        f"{record['what']}, {record['actors']} actors: {record['rows']} rows in {record['seconds']:.2f} s, "
        f"{record['rows_per_second']:.3f} rows/s"
    )
    for name, against in (("efficiency", "of the bare engine"), ("of_linear", "of linear")):
        if name in record:
            text += f", {record[name]:.1%} {against}"
    if "start" in record:
        text += "; " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in record["start"].items())
    return text
