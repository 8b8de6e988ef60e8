"""``retouch manifest``: manifests made from folders, looked at, and what their columns mean."""

from __future__ import annotations

import json
from typing import Annotated

import typer

manifests = typer.Typer(help="Manifests: from a folder, what one holds, what columns mean.", no_args_is_help=True)

SHOWN = 5  # files of a kind that are named


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(manifests, name="manifest")


@manifests.command("from-folder")
def from_folder(
    folder: Annotated[str, typer.Argument(help="Folder of images, at any depth, on any fsspec URL.")],
    output: Annotated[str, typer.Argument(help="Manifest to write (Parquet); files below its folder stay relative.")],
    masks: Annotated[str | None, typer.Option(help="Folder of masks, matched by name.")] = None,
    mask_suffix: Annotated[
        str, typer.Option(help="Behind an image's name in its mask's: -mask for cat-mask.png.")
    ] = "",
    exemplars: Annotated[str | None, typer.Option(help="Folder of exemplars, matched by name.")] = None,
    prompt: Annotated[str | None, typer.Option(help="One prompt for all rows.")] = None,
    prompts: Annotated[
        str | None, typer.Option(help="CSV with columns image and prompt; others come through. One row a line.")
    ] = None,
    bbox: Annotated[str | None, typer.Option(help="x0,y0,x1,y1 in pixels, the same for all rows.")] = None,
    allow_unmatched: Annotated[
        bool, typer.Option("--allow-unmatched", help="Leave files without a partner out; else nothing is written.")
    ] = False,
) -> None:
    """A folder of images as a manifest; masks, exemplars and prompts are matched by the images' names."""
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
    for what, files in made.unmatched.items():
        more = f", … ({len(files) - SHOWN} more)" if len(files) > SHOWN else ""
        typer.echo(f"{len(files)} {what}: {', '.join(files[:SHOWN])}{more}", err=True)
    if not made.rows:
        typer.echo("nothing was written; mend the names, or leave these files out with --allow-unmatched", err=True)
        raise typer.Exit(1)
    typer.echo(f"{output}: {made.rows} rows")
    if not made.relative:
        typer.echo("some addresses are absolute: the files do not lie below the manifest's folder")


@manifests.command()
def show(
    manifest: Annotated[str, typer.Argument(help="Parquet file, folder or glob.")],
    rows: Annotated[int, typer.Option(min=0, help="How many of the first rows to show.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")] = False,
) -> None:
    """Columns, what they mean, how many rows fill them, and the first rows."""
    from retouch.manifests.describe import show as look

    found = look(manifest, rows)
    typer.echo(json.dumps(found.record()) if as_json else found.text())


@manifests.command()
def columns() -> None:
    """All columns with a meaning, as a table in Markdown."""
    from retouch.manifests.describe import columns_table

    typer.echo(columns_table())


def _box(text: str) -> list[float]:
    from retouch.errors import ConfigError

    try:
        box = [float(part) for part in text.split(",")]
    except ValueError:
        box = []
    if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
        raise ConfigError(f"--bbox {text!r} is no box; give x0,y0,x1,y1 in pixels, as 10,20,110,120")
    return box
