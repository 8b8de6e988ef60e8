"""``retouch bench pipeline``: what Ray and the rows' way take beside the engine, and how far more actors help."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def register(bench: typer.Typer) -> None:
    """Add the command."""
    bench.command("pipeline")(pipeline)


def pipeline(
    job: Annotated[str, typer.Option(help="Job file whose editor, metrics and rows are timed.")] = (
        "jobs/quickstart.yaml"
    ),
    minutes: Annotated[float, typer.Option(min=0.01, help="Of work for each number of actors, at least.")] = 3.0,
    actors: Annotated[str, typer.Option(help="Numbers of actors with the job's editor, a,b,...; '' for none.")] = "1,2",
    simulated: Annotated[
        str, typer.Option(help="Numbers of actors whose editor only waits, on declared GPUs; '' for none.")
    ] = "1,2,4,8,16,64",
    latency: Annotated[float, typer.Option(min=0.001, help="Seconds that such an editor waits a pass.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON a measurement.")] = False,
) -> None:
    """The same rows through the bare engine, a run on Ray, and a plain Ray Data script; then through simulated GPUs."""
    from retouch.cli.bench.pipeline import measure, simulate

    for count in _numbers(actors), _numbers(simulated):  # a wrong one is said before anything is timed
        if any(number < 1 for number in count):
            raise typer.BadParameter("a number of actors is 1 or more")
    if actors:
        for record in measure(job, minutes=minutes, actors=_numbers(actors)):
            typer.echo(json.dumps(record) if as_json else _line(record))
    if simulated:
        for record in simulate(job, actors=_numbers(simulated), latency=latency):
            typer.echo(json.dumps(record) if as_json else _line(record))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers such as 1,2") from None


def _line(record: dict[str, Any]) -> str:
    """``ray, 2 actors: 72 rows in 91.20 s, 0.789 rows/s, 97.1 % of the bare engine; start: plan 2.1 s, ...``."""
    said = (
        f"{record['what']}, {record['actors']} actors: {record['rows']} rows in {record['seconds']:.2f} s, "
        f"{record['rows_per_second']:.3f} rows/s"
    )
    for name, against in (("efficiency", "of the bare engine"), ("of_linear", "of linear")):
        if name in record:
            said += f", {record[name]:.1%} {against}"
    if "start" in record:
        said += "; " + ", ".join(f"{part} {seconds:.1f} s" for part, seconds in record["start"].items())
    return said
