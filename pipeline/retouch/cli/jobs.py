"""``retouch jobs``: list, follow and stop the jobs that were submitted to a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from retouch.deployment.ray_jobs import JobState

app = typer.Typer(help="List, follow and stop jobs submitted to a Ray cluster.", no_args_is_help=True)

Dashboard = Annotated[
    str | None,
    typer.Option(help="The cluster's dashboard, http://HOST:8265. Default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS."),
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Submission id, as printed by submit and list.")]
LEFT_BY_CTRL_C = 130  # a shell's code for an interrupt: the job is still running and has no exit code


@app.command("list")
def list_(address: Dashboard = None) -> None:
    """List the cluster's submissions, oldest first."""
    from retouch.deployment import ray_jobs

    for state in ray_jobs.list_jobs(ray_jobs.connect(address)):
        typer.echo(_line(state))


@app.command()
def logs(
    id_: Id,
    address: Dashboard = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Continue until the job ends; end with its exit code.")
    ] = False,
) -> None:
    """Print a submission's log."""
    from retouch.deployment import ray_jobs

    client = ray_jobs.connect(address)
    if follow:
        raise typer.Exit(follow_to_end(client, id_, {}))
    typer.echo(ray_jobs.read_log(client, id_), nl=False)


@app.command()
def stop(id_: Id, address: Dashboard = None) -> None:
    """Stop a submission. Finished rows are kept; submit the job again to resume."""
    from retouch.deployment import ray_jobs

    typer.echo(_line(ray_jobs.stop(ray_jobs.connect(address), id_)))


def follow_to_end(client: object, submission_id: str, environment: Mapping[str, str]) -> int:
    """Print a job's log until it ends and return its exit code. Values of ``environment`` are masked in the log."""
    from retouch.deployment import ray_jobs

    try:
        state = ray_jobs.follow(client, submission_id, _printer(environment.values()))
    except KeyboardInterrupt:
        typer.echo(f"\n{submission_id} is still running; stop it: retouch jobs stop {submission_id}", err=True)
        return LEFT_BY_CTRL_C
    typer.echo(_line(state))
    if state.code is None and state.status == "FAILED":  # it never ran, or its node died: the log has no reason
        typer.echo(state.message, err=True)
    return state.exit_code


def _printer(values: Iterable[str]) -> Callable[[str], None]:
    """Return a function that prints text with these values masked."""
    from retouch.redaction import MASK, SHORTEST

    hidden = sorted((value for value in values if len(value) >= SHORTEST), key=len, reverse=True)

    def write(text: str) -> None:
        for value in hidden:
            text = text.replace(value, MASK)
        typer.echo(text, nl=False)

    return write


def _line(state: JobState) -> str:
    code = "" if state.code is None else f" (exit code {state.code})"
    began = f", started {state.start:%Y-%m-%d %H:%M:%S}" if state.start else ""
    ended = f", ended {state.end:%H:%M:%S}" if state.end else ""
    return f"{state.id}: {state.status}{code}{began}{ended}"
