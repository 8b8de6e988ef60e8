"""``retouch bench``: timings of this machine, as JSON. Nothing else in the package times itself."""

from __future__ import annotations

import typer

from pipeline.commands import bench_engine, bench_objects, bench_pipeline, bench_scale

bench = typer.Typer(help="Time the engine, the pipeline and large manifests; ratios are taken side by side.",
                    no_args_is_help=True)  # fmt: skip


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(bench, name="bench")


bench_engine.register(bench)
bench_scale.register(bench)
bench_objects.register(bench)
bench_pipeline.register(bench)
