"""``retouch verify``: prove from storage that a run is complete."""

from __future__ import annotations

import typer

from retouch.cli.options import OutputFolder


def verify(output: OutputFolder) -> None:
    """Verify from storage that every row has exactly one result and every image matches its recorded sha256."""
    from retouch.errors import StorageError
    from retouch.outputs.run_record import read_run, version_of
    from retouch.outputs.verify import verify_output, write_proof

    read_run(output)  # raises if the folder holds no run; an empty folder would pass the proof
    proof = verify_output(output)
    typer.echo(proof.text())
    try:
        typer.echo(f"proof: {write_proof(output, proof, version_of('retouch'))}")
    except StorageError as error:
        typer.echo(f"proof not written: {' '.join(str(error).split())}", err=True)
    raise typer.Exit(0 if proof.ok else 1)
