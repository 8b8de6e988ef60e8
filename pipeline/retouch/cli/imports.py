"""``retouch import``: manifests from other projects' datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retouch.cli.manifest import print_written

if TYPE_CHECKING:
    from retouch.manifests.written import WrittenManifest

app = typer.Typer(help="Import other projects' datasets as manifests.", no_args_is_help=True)


@app.command("cocoee")
def import_cocoee(
    folder: Annotated[str, typer.Argument(help="Paint by Example's test_bench: GT_3500, Ref_3500, Mask_bbox_3500.")],
    output: Annotated[str, typer.Argument(help="Manifest to write (Parquet).")],
) -> None:
    """Import the COCO exemplar benchmark: one row per image, with mask and exemplar."""
    from retouch.manifests.importers import cocoee

    _print_import(cocoee(folder, output), output)


@app.command("coco")
def import_coco(
    annotations: Annotated[str, typer.Argument(help="COCO's instances JSON.")],
    images: Annotated[str, typer.Argument(help="Folder of the images.")],
    output: Annotated[str, typer.Argument(help="Manifest to write (Parquet).")],
    min_area: Annotated[float, typer.Option(help="Smallest box, as a fraction of its image.")] = 0.02,
    max_area: Annotated[float, typer.Option(help="Largest box, as a fraction of its image.")] = 0.8,
    grouped: Annotated[
        bool, typer.Option("--grouped", help="One row per image with all its boxes, for training.")
    ] = False,
) -> None:
    """Import COCO's objects: one row per mask or box to edit, or one per image to train on."""
    from retouch.manifests.importers import coco

    _print_import(coco(annotations, images, output, (min_area, max_area), grouped=grouped), output)


@app.command("openimages")
def import_openimages(
    boxes: Annotated[str, typer.Argument(help="Open Images' boxes CSV, or a folder with one .txt per image.")],
    images: Annotated[str, typer.Argument(help="Folder of the images.")],
    output: Annotated[str, typer.Argument(help="Manifest to write (Parquet).")],
    min_area: Annotated[float, typer.Option(help="Smallest box, as a fraction of its image.")] = 0.02,
    max_area: Annotated[float, typer.Option(help="Largest box, as a fraction of its image.")] = 0.8,
) -> None:
    """Import Open Images' boxes for training: one row per image with all its boxes."""
    from retouch.manifests.importers import openimages

    _print_import(openimages(boxes, images, output, (min_area, max_area)), output)


def _print_import(imported: WrittenManifest, output: str) -> None:
    print_written(imported, output)
    if imported.problems:
        raise typer.Exit(1)
