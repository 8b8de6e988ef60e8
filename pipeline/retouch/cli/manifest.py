"""``retouch manifest``: make a manifest from a folder, show one, list the columns."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from retouch.manifests.written import WrittenManifest

app = typer.Typer(help="Create and inspect manifests.", no_args_is_help=True)

FILES_SHOWN = 5  # files named per problem


@app.command("from-folder")
def from_folder(
    folder: Annotated[str, typer.Argument(help="Folder of images at any depth: local path or any fsspec URL.")],
    output: Annotated[
        str, typer.Argument(help="Manifest to write (Parquet). Files below its folder get relative addresses.")
    ],
    masks: Annotated[str | None, typer.Option(help="Folder of masks, matched by name.")] = None,
    mask_suffix: Annotated[
        str, typer.Option(help="Suffix of a mask's name after its image's name: -mask for cat-mask.png.")
    ] = "",
    exemplars: Annotated[str | None, typer.Option(help="Folder of exemplars, matched by name.")] = None,
    prompt: Annotated[str | None, typer.Option(help="One prompt for all rows.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="CSV with columns image and prompt; other columns are kept. One row per line.")
    ] = None,
    bbox: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 in pixels, the same for all rows.")] = None,
    allow_unmatched: Annotated[
        bool,
        typer.Option(
            "--allow-unmatched", help="Leave unmatched files out. Default: write nothing if a file has no match."
        ),
    ] = False,
) -> None:
    """Write a manifest for a folder of images; masks, exemplars and prompts are matched by file name."""
    from retouch.manifests.from_folder import from_folder as make

    made = make(
        folder,
        output,
        masks=masks,
        mask_suffix=mask_suffix,
        exemplars=exemplars,
        prompt=prompt,
        prompts=prompts,
        bbox=None if bbox is None else _box(bbox),
        allow_unmatched=allow_unmatched,
    )
    print_written(made, output)
    if not made.rows:
        typer.echo("nothing was written; fix the names, or leave these files out with --allow-unmatched", err=True)
        raise typer.Exit(1)


@app.command()
def show(
    manifest: Annotated[str, typer.Argument(help="Parquet file, folder or glob.")],
    rows: Annotated[int, typer.Option(min=0, help="How many of the first rows to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a manifest's columns, their meaning, how many rows fill them, and the first rows."""
    from retouch.manifests.describe import describe_manifest

    found = describe_manifest(manifest, rows)
    typer.echo(json.dumps(found.record()) if as_json else found.text())


@app.command()
def columns() -> None:
    """Print the columns that have a meaning as a Markdown table."""
    from retouch.manifests.describe import columns_table

    typer.echo(columns_table())


def print_written(written: WrittenManifest, output: str) -> None:
    """Print what was written to ``output``; the files with problems go to standard error."""
    for problem, files in written.problems.items():
        more = f", … ({len(files) - FILES_SHOWN} more)" if len(files) > FILES_SHOWN else ""
        typer.echo(f"{len(files)} {problem}: {', '.join(files[:FILES_SHOWN])}{more}", err=True)
    if written.rows:
        typer.echo("; ".join([f"{output}: {written.rows} rows", *written.notes]))


def _box(text: str) -> list[float]:
    from retouch.errors import ConfigError

    try:
        box = [float(part) for part in text.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise ConfigError(f"--bbox {text!r} is not a box; give x0,y0,x1,y1 in pixels, such as 10,20,110,120")
    return box
