"""``retouch export``: a run's finished edits as a dataset for other projects' libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from retouch.outputs.export.content_credentials import Signing

SHOWN = 10  # rows that are lacking, named on the terminal; all are in export.json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    output: Annotated[str, typer.Argument(help="A run's output folder: local, s3://, or any fsspec URL.")],
    dest: Annotated[str, typer.Argument(help="Folder of the dataset, likewise; an empty one.")],
    format_: Annotated[
        Literal["webdataset", "parquet", "folder"],
        typer.Option("--format", help="Tar shards, Parquet with the images inside, or plain image files."),
    ],
    layout: Annotated[
        Literal["edited", "pairs"],
        typer.Option(help="The edited images; or source, mask, prompt and edit, to train on."),
    ] = "edited",
    where: Annotated[
        str | None, typer.Option(help='Rows for which this holds, in DuckDB\'s SQL: "clip_score > 25".')
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Columns that go along, parted by commas; else metrics, yours and some of ours.")
    ] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="Rows of this status: success (if not given), failed_quality. Repeatable.")
    ] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a tar or Parquet file, at most.")] = 1000,
    shard_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one, about; it is held in memory.")] = 256,
    provenance: Annotated[bool, typer.Option(help="Write into each image what made it; pixels stay.")] = True,
    c2pa_certificates: Annotated[
        str | None, typer.Option(help="Sign each image as C2PA has it: PEM file of your certificate and its chain.")
    ] = None,
    c2pa_key: Annotated[str | None, typer.Option(help="PEM file of the certificate's private key.")] = None,
    c2pa_timestamps: Annotated[
        str | None, typer.Option(help="Address of a time-stamping authority, asked for every image.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier export in the folder.")] = False,
    manifest: Annotated[str | None, typer.Option(help="Where the manifest lies now; else as the run had it.")] = None,
) -> None:
    """Finished edits as a dataset: WebDataset, Hugging Face Parquet, or plain files."""
    from retouch.outputs.export.export import Request
    from retouch.outputs.export.export import export as write
    from retouch.outputs.export.shard_writer import Limits

    request = Request(
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
    done = write(request, lambda line: typer.echo(line, err=True))
    for note in done.notes:
        typer.echo(note, err=True)
    for row in done.lacking[:SHOWN]:
        typer.echo(f"left out: {row.key}: {row.reason}: {row.detail}", err=True)
    if len(done.lacking) > SHOWN:
        typer.echo(f"and {len(done.lacking) - SHOWN} more, all named in {dest}/export.json", err=True)
    typer.echo(done.text())
    typer.echo(f"dataset: {dest}")
    raise typer.Exit(done.exit_code)


def _signing(certificates: str | None, key: str | None, timestamps: str | None) -> Signing | None:
    from retouch.outputs.export.content_credentials import Signing

    if certificates is None and key is None and timestamps is None:
        return None
    if certificates is None or key is None:
        raise typer.BadParameter("--c2pa-certificates and --c2pa-key go together")
    return Signing(certificates, key, timestamps)
