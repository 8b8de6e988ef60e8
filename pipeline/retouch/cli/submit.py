"""``retouch submit``: send a job to a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from retouch.cli.jobs import Dashboard, follow_to_end
from retouch.cli.options import Overrides

if TYPE_CHECKING:
    from collections.abc import Sequence


def submit(
    job: Annotated[str, typer.Argument(help="Job file (YAML).")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="RUN_OPTIONS", help="More options of retouch run, after --.")
    ] = None,
    address: Dashboard = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print the job's log and end with its exit code.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Submit even if today's submission is running or succeeded.")
    ] = False,
    set_: Overrides = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Pass on this environment variable. Repeatable.")
    ] = None,
    working_dir: Annotated[
        str | None, typer.Option(help="Upload this folder with the job; relative input addresses start there.")
    ] = None,
    python: Annotated[str, typer.Option(help="Python interpreter on the cluster's head node.")] = "python",
) -> None:
    """Submit a job to a Ray cluster, once per day. Submitting a stopped or failed job again resumes it."""
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
        typer.echo(f"passed on: {', '.join(environment)}; Ray stores their values for as long as it keeps the job")
    if follow:
        raise typer.Exit(follow_to_end(client, submission_id, environment))
    typer.echo(f"follow it: retouch jobs logs {submission_id} --follow")


def _environment(names: Sequence[str]) -> dict[str, str]:
    """Return the values of the environment variables that are passed on by name."""
    import os

    from retouch.errors import ConfigError

    for name in names:
        if not name.isidentifier():
            raise ConfigError("--env takes a variable's name only; a value would be kept in the shell's history")
        if name not in os.environ:
            raise ConfigError(f"--env {name}: no such variable in this environment; set it first")
    return {name: os.environ[name] for name in names}
