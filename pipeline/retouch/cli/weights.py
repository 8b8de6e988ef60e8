"""``retouch weights``: list, fetch, verify and convert weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retouch.cli.options import JobFile, Overrides

if TYPE_CHECKING:
    from pathlib import Path

    from retouch.jobs.config import Job
    from retouch.models.weights.inventory import Entry

app = typer.Typer(help="List, fetch, verify and convert weights.", no_args_is_help=True)


@app.command("list")
def list_(
    job: Annotated[str | None, typer.Argument(help="Job file (YAML). Default: the embedded families.")] = None,
    set_: Overrides = None,
) -> None:
    """List a job's weights without fetching them: role, size, sha256, location. Exit code 1 if one is missing."""
    from retouch.models.weights.inventory import embedded, entries, of_job

    found = [entry for spec in (of_job(_load(job, set_)) if job else embedded()) for entry in entries(spec)]
    for entry in found:
        typer.echo(_line(entry))
    raise typer.Exit(0 if all(entry.here or entry.state in ("remote", "by name") for entry in found) else 1)


@app.command()
def fetch(job: JobFile, set_: Overrides = None) -> None:
    """Download a job's weights to this machine's cache, resuming interrupted downloads, and check pinned hashes."""
    from retouch.models.weights import resolve
    from retouch.models.weights.inventory import of_job

    for spec in of_job(_load(job, set_)):
        found = resolve(spec)
        for role, path in found.files.items():
            typer.echo(f"{role:24} {found.sha256[role]}  {path}")


@app.command()
def verify(
    job: Annotated[
        str | None, typer.Argument(help="Job file (YAML). Default: everything in this machine's cache.")
    ] = None,
    set_: Overrides = None,
) -> None:
    """Read the weights on this machine again and compare their sha256. Exit code 1 if one differs."""
    from retouch.models.weights.inventory import cached, entries, fault, of_job

    files: list[tuple[Path, str | None]] = []
    if job is None:
        files += [(path, None) for path in cached()]
    else:
        found = [entry for spec in of_job(_load(job, set_)) for entry in entries(spec)]
        files += [(entry.path, entry.pin) for entry in found if entry.here and entry.path is not None]
        for entry in found:
            if not entry.here:
                typer.echo(f"{entry.role}: {entry.address}: {entry.state}; not checked")
    faults = {path: fault(path, pin) for path, pin in files}
    for path, wrong in faults.items():
        typer.echo(f"{path}: {wrong or 'ok'}")
    typer.echo(f"{len(faults)} files, {sum(wrong is not None for wrong in faults.values())} damaged")
    raise typer.Exit(1 if any(faults.values()) else 0)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Published checkpoint (.pt, .pth, .ckpt): local path or URL.")],
    target: Annotated[str, typer.Argument(help="File to write (.safetensors).")],
) -> None:
    """Convert a checkpoint to safetensors without running code from it, and name its architecture."""
    from retouch.models.recognize import convert as convert_file
    from retouch.models.weights.fetch import one_file

    typer.echo(f"{target}: {convert_file(one_file(source), target)}")


def _load(job: str, set_: list[str] | None) -> Job:
    from retouch.jobs.config import load_job

    return load_job(job, set_ or ())


def _line(entry: Entry) -> str:
    size = "" if entry.size is None else f"{entry.size:,}"
    return f"{entry.role:24} {size:>15}  {(entry.sha256 or '-')[:12]:12}  {entry.state:8}  {entry.address}"
