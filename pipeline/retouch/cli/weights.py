"""``retouch weights``: what a job's weights are, bring them here, hold them against their hashes, convert one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from retouch.jobs.config import Job
    from retouch.models.weights.inventory import Entry

weights = typer.Typer(help="A job's weights: where they lie, and whether they are whole.", no_args_is_help=True)

JobFile = Annotated[str, typer.Argument(help="Job file (YAML).")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. Repeatable.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(weights, name="weights")


@weights.command("list")
def list_(
    job: Annotated[str | None, typer.Argument(help="Job file (YAML); without one, the embedded families.")] = None,
    set_: Set = None,
) -> None:
    """What a job names: role, size, sha256, where it lies; nothing is fetched. Exit code 1: something is not there."""
    from retouch.models.weights.inventory import embedded, entries, of_job

    found = [entry for spec in (of_job(_load(job, set_)) if job else embedded()) for entry in entries(spec)]
    for entry in found:
        typer.echo(_line(entry))
    raise typer.Exit(0 if all(entry.here or entry.state in ("remote", "by name") for entry in found) else 1)


@weights.command()
def fetch(job: JobFile, set_: Set = None) -> None:
    """Bring a job's weights to this machine's cache, resuming what was broken off, and check pins."""
    from retouch.models.weights import resolve
    from retouch.models.weights.inventory import of_job

    for spec in of_job(_load(job, set_)):
        found = resolve(spec)
        for role, path in found.files.items():
            typer.echo(f"{role:24} {found.sha256[role]}  {path}")


@weights.command()
def verify(
    job: Annotated[str | None, typer.Argument(help="Job file (YAML); without one, this machine's whole cache.")] = None,
    set_: Set = None,
) -> None:
    """Read weights on this machine anew and hold them against their hashes. Exit code 1: one differs."""
    from retouch.models.weights.inventory import cached, entries, fault, of_job

    files: list[tuple[Path, str | None]] = []
    if job is None:
        files += [(path, None) for path in cached()]
    else:
        found = [entry for spec in of_job(_load(job, set_)) for entry in entries(spec)]
        files += [(entry.path, entry.pin) for entry in found if entry.here and entry.path is not None]
        for entry in found:
            if not entry.here:
                typer.echo(f"{entry.role}: {entry.address}: {entry.state}; not looked at")
    faults = {path: fault(path, pin) for path, pin in files}
    for path, wrong in faults.items():
        typer.echo(f"{path}: {wrong or 'whole'}")
    typer.echo(f"{len(faults)} files, {sum(wrong is not None for wrong in faults.values())} damaged")
    raise typer.Exit(1 if any(faults.values()) else 0)


@weights.command()
def convert(
    source: Annotated[str, typer.Argument(help="Published checkpoint (.pt, .pth, .ckpt), at any address.")],
    target: Annotated[str, typer.Argument(help="File to write (.safetensors).")],
) -> None:
    """A checkpoint to safetensors under the same names, without running code in it; says what it is."""
    from retouch.models.recognize import convert as convert_file
    from retouch.models.weights.fetch import one_file

    typer.echo(f"{target}: {convert_file(one_file(source), target)}")


def _load(job: str, set_: list[str] | None) -> Job:
    from retouch.jobs.config import load_job

    return load_job(job, set_ or ())


def _line(entry: Entry) -> str:
    size = "" if entry.size is None else f"{entry.size:,}"
    return f"{entry.role:24} {size:>15}  {(entry.sha256 or '-')[:12]:12}  {entry.state:8}  {entry.address}"
