"""``retouch export``: a run's finished edits as a dataset for other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retouch.cli.options import OutputFolder

if TYPE_CHECKING:
    from retouch.outputs.export.content_credentials import Signing

SHOWN = 10  # left-out rows that are named on the terminal; export.json names all


def export(
    output: OutputFolder,
    dest: Annotated[str, typer.Argument(help="Folder of the dataset: local path or URL; must be empty.")],
    format_: Annotated[
        Literal["webdataset", "parquet", "folder"],
        typer.Option("--format", help="Tar shards, Parquet files with the images inside, or plain image files."),
    ],
    layout: Annotated[
        Literal["edited", "pairs"],
        typer.Option(help="Edited images only; or pairs for training: source, mask, prompt and edit."),
    ] = "edited",
    where: Annotated[
        str | None, typer.Option(help='Condition on rows in DuckDB\'s SQL, such as "clip_score > 25".')
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns to keep, separated by commas. Default: metrics, your columns and some of ours."),
    ] = None,
    status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", help="Rows of this status: success (default) or failed_quality. Repeatable."),
    ] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Maximum rows per tar or Parquet file.")] = 1000,
    shard_mb: Annotated[
        int, typer.Option(min=1, help="Approximate megabytes per file; one file is held in memory.")
    ] = 256,
    provenance: Annotated[
        bool, typer.Option(help="Write how an image was made into its metadata; pixels do not change.")
    ] = True,
    c2pa_certificates: Annotated[
        str | None, typer.Option(help="Sign each image (C2PA): PEM file of your certificate and its chain.")
    ] = None,
    c2pa_key: Annotated[str | None, typer.Option(help="PEM file of the certificate's private key.")] = None,
    c2pa_timestamps: Annotated[
        str | None, typer.Option(help="URL of a time-stamping authority, called once per image.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier export in the folder.")] = False,
    manifest: Annotated[
        str | None, typer.Option(help="Current address of the manifest. Default: the one that the run read.")
    ] = None,
) -> None:
    """Export finished edits as a dataset: WebDataset tar shards, Parquet for Hugging Face datasets, or plain files."""
    from retouch.outputs.export.dataset import ExportRequest, export_dataset
    from retouch.outputs.export.shard_writer import Limits

    request = ExportRequest(
        output=output,
        dest=dest.rstrip("/"),
        format=format_,
        layout=layout,
        where=where,
        statuses=tuple(dict.fromkeys(status or ("success",))),
        columns=None if columns is None else tuple(name.strip() for name in columns.split(",") if name.strip()),
        limits=Limits(shard_rows, shard_mb << 20),
        provenance=provenance,
        signing=_signing(c2pa_certificates, c2pa_key, c2pa_timestamps),
        overwrite=overwrite,
        manifest=manifest,
    )
    done = export_dataset(request, lambda line: typer.echo(line, err=True))
    for note in done.notes:
        typer.echo(note, err=True)
    for row in done.skipped[:SHOWN]:
        typer.echo(f"left out: {row.key}: {row.reason}: {row.detail}", err=True)
    if len(done.skipped) > SHOWN:
        typer.echo(f"and {len(done.skipped) - SHOWN} more, all listed in {dest}/export.json", err=True)
    typer.echo(done.text())
    typer.echo(f"dataset: {dest}")
    raise typer.Exit(done.exit_code)


def _signing(certificates: str | None, key: str | None, timestamps: str | None) -> Signing | None:
    from retouch.outputs.export.content_credentials import Signing

    if certificates is None and key is None and timestamps is None:
        return None
    if certificates is None or key is None:
        raise typer.BadParameter("--c2pa-certificates and --c2pa-key are needed together")
    return Signing(certificates, key, timestamps)
