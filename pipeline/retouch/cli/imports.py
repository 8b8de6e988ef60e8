"""``retouch import``: other projects' datasets as manifests. Knows names and options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from retouch.manifests.importers import Imported

importing = typer.Typer(help="Other projects' datasets as manifests.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(importing, name="import")


@importing.command("cocoee")
def import_cocoee(
    folder: Annotated[str, typer.Argument(help="Paint by Example's test_bench: GT_3500, Ref_3500, Mask_bbox_3500.")],
    output: Annotated[str, typer.Argument(help="Manifest to write (Parquet).")],
) -> None:
    """The COCO exemplar benchmark: one row an image, with mask and exemplar."""
    from retouch.manifests.importers import cocoee

    _say_import(cocoee(folder, output), output)


@importing.command("coco")
def import_coco(
    annotations: Annotated[str, typer.Argument(help="COCO's instances JSON.")],
    images: Annotated[str, typer.Argument(help="Folder of the images.")],
    output: Annotated[str, typer.Argument(help="Manifest to write (Parquet).")],
    min_area: Annotated[float, typer.Option(help="Smallest box, as a share of its image.")] = 0.02,
    max_area: Annotated[float, typer.Option(help="Largest box, as a share of its image.")] = 0.8,
    grouped: Annotated[bool, typer.Option("--grouped", help="One row an image with all boxes, to train on.")] = False,
) -> None:
    """COCO's boxes: one row a box to edit, or one an image to train on."""
    from retouch.manifests.importers import coco

    _say_import(coco(annotations, images, output, (min_area, max_area), grouped=grouped), output)


@importing.command("openimages")
def import_openimages(
    boxes: Annotated[str, typer.Argument(help="Open Images' boxes CSV, or a folder of one .txt an image.")],
    images: Annotated[str, typer.Argument(help="Folder of the images.")],
    output: Annotated[str, typer.Argument(help="Manifest to write (Parquet).")],
    min_area: Annotated[float, typer.Option(help="Smallest box, as a share of its image.")] = 0.02,
    max_area: Annotated[float, typer.Option(help="Largest box, as a share of its image.")] = 0.8,
) -> None:
    """Open Images' boxes, to train on: one row an image with all its boxes."""
    from retouch.manifests.importers import openimages

    _say_import(openimages(boxes, images, output, (min_area, max_area)), output)


def _say_import(imported: Imported, output: str) -> None:
    typer.echo(f"{output}: {imported.rows} rows{imported.note}")
    if imported.missing:
        typer.echo(f"{len(imported.missing)} files are not there: {', '.join(imported.missing[:5])}", err=True)
        raise typer.Exit(1)
