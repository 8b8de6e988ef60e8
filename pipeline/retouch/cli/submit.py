"""``retouch submit`` and ``retouch jobs``: jobs sent to a Ray cluster, followed, listed and stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from retouch.deployment.ray_jobs import JobState

jobs = typer.Typer(help="Jobs that were submitted to a Ray cluster.", no_args_is_help=True)

Address = Annotated[
    str | None,
    typer.Option(help="The cluster's dashboard, http://HOST:8265; else RAY_API_SERVER_ADDRESS or RAY_ADDRESS."),
]
Id = Annotated[str, typer.Argument(help="A submission's id, as submit and list print it.")]
LEFT_BY_CTRL_C = 130  # a shell's code for it: the job itself has none yet


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(submit)
    app.add_typer(jobs, name="jobs")


def submit(
    job: Annotated[str, typer.Argument(help="Job file (YAML).")],
    options: Annotated[list[str] | None, typer.Argument(help="More options of retouch run, after --.")] = None,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show the job's log; end with its exit code.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also if today's attempt runs or succeeded.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. Repeatable.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="Pass this environment variable on, by its NAME. Repeatable.")
    ] = None,
    working_dir: Annotated[
        str | None, typer.Option(help="Send this folder along: relative addresses that are read start there.")
    ] = None,
    python: Annotated[str, typer.Option(help="The interpreter on the cluster's head, or a command for it.")] = "python",
) -> None:
    """Run a job on a Ray cluster, once a day; again, it goes on with one that was stopped or failed."""
    import datetime as dt
    import tempfile

    from retouch.deployment import ray_jobs
    from retouch.deployment.job_package import pack

    environment = _environment(env or ())
    today = dt.datetime.now(dt.UTC).date()
    with tempfile.TemporaryDirectory() as scratch:
        package = pack(job, set_ or (), scratch=scratch, working_dir=working_dir, python=python, options=options or ())
        client = ray_jobs.connect(address)
        submission_id = ray_jobs.submit(client, package, today, environment=environment, again=again)
    typer.echo(f"submitted: {submission_id}")
    if environment:
        typer.echo(f"with the environment's {', '.join(environment)}; Ray keeps their values while it knows the job")
    if follow:
        raise typer.Exit(_follow(client, submission_id, environment))
    typer.echo(f"follow it: retouch jobs logs {submission_id} --follow")


@jobs.command("list")
def list_(address: Address = None) -> None:
    """All submissions that the cluster knows, the oldest first."""
    from retouch.deployment import ray_jobs

    for state in ray_jobs.listed(ray_jobs.connect(address)):
        typer.echo(_line(state))


@jobs.command()
def logs(
    id_: Id,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Until it is over; end with its exit code.")] = False,
) -> None:
    """What a job has said."""
    from retouch.deployment import ray_jobs

    client = ray_jobs.connect(address)
    if follow:
        raise typer.Exit(_follow(client, id_, {}))
    typer.echo(ray_jobs.log(client, id_), nl=False)


@jobs.command()
def stop(id_: Id, address: Address = None) -> None:
    """End a job; what is answered stays, and submitting it again goes on from there."""
    from retouch.deployment import ray_jobs

    typer.echo(_line(ray_jobs.stop(ray_jobs.connect(address), id_)))


def _follow(client: object, submission_id: str, environment: Mapping[str, str]) -> int:
    """The exit code of a job that was followed to its end."""
    from retouch.deployment import ray_jobs

    try:
        state = ray_jobs.follow(client, submission_id, _without(environment.values()))
    except KeyboardInterrupt:
        typer.echo(f"\n{submission_id} runs on; retouch jobs stop {submission_id} ends it", err=True)
        return LEFT_BY_CTRL_C
    typer.echo(_line(state))
    if state.code is None and state.status == "FAILED":  # it never ran, or its node is gone: no log says why
        typer.echo(state.message, err=True)
    return state.exit_code


def _without(values: Iterable[str]) -> Callable[[str], None]:
    """Prints text without these values."""
    from retouch.redaction import MASK, SHORTEST

    hidden = sorted((value for value in values if len(value) >= SHORTEST), key=len, reverse=True)

    def write(text: str) -> None:
        for value in hidden:
            text = text.replace(value, MASK)
        typer.echo(text, nl=False)

    return write


def _environment(names: Sequence[str]) -> dict[str, str]:
    """The values of variables that are passed on by name."""
    import os

    from retouch.errors import ConfigError

    for name in names:
        if not name.isidentifier():
            raise ConfigError("--env takes a variable's name alone: a value would stand in the shell's history")
        if name not in os.environ:
            raise ConfigError(f"--env {name}: there is no such variable here")
    return {name: os.environ[name] for name in names}


def _line(state: JobState) -> str:
    code = "" if state.code is None else f" (exit code {state.code})"
    began = f", started {state.start:%Y-%m-%d %H:%M:%S}" if state.start else ""
    ended = f", ended {state.end:%H:%M:%S}" if state.end else ""
    return f"{state.id}: {state.status}{code}{began}{ended}"
