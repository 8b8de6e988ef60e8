"""``retouch bench``: timings of this machine. Nothing else in the package times itself."""

from __future__ import annotations

from typing import Annotated

import typer

from retouch.cli.bench import bench_engine, bench_objects, bench_pipeline, bench_scale

bench = typer.Typer(help="Time the engine, the pipeline and large manifests; ratios are taken side by side.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(bench, name="bench")


@bench.callback(invoke_without_command=True)
def engine_and_pipeline(
    context: typer.Context,
    device: Annotated[
        str | None, typer.Option(help="Of the engine: cpu or cuda; cuda where there is a GPU, else.")
    ] = None,
) -> None:
    """Time this machine; without a command, engine and pipeline in short, a JSON object a line."""
    if context.invoked_subcommand is not None:
        return
    bench_engine.engine(batch="1,8", turns=0, device=device, as_json=True)
    bench_pipeline.pipeline(minutes=0.5, actors="1", simulated="", as_json=True)


bench_engine.register(bench)
bench_scale.register(bench)
bench_objects.register(bench)
bench_pipeline.register(bench)
