"""``retouch schedule``, and ``retouch night``, which the CronJob that it renders runs. Knows names and options."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from retouch.deployment.kubernetes.nightly import Dated

WHERE = "A file, or any fsspec URL, to write to; standard output where it is left out."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(schedule)
    app.command(hidden=True)(night)


def schedule(
    job: Annotated[str, typer.Argument(help="Job file (YAML) of any kind, here or at an address.")],
    cron: Annotated[str | None, typer.Option(help="When: minute, hour, day, month, weekday.")] = None,
    timezone: Annotated[str, typer.Option(help="Whose clocks.")] = "Etc/UTC",
    kind: Annotated[str, typer.Option(help="cronjob, raycronjob, rayjob (once, now) or raycluster.")] = "cronjob",
    image: Annotated[str | None, typer.Option(help="Image of cluster/Dockerfile; retouch:VERSION by itself.")] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs at most, 0 to work on CPUs; else as the job says.")
    ] = None,
    workers: Annotated[str | None, typer.Option(help="Pods for the main work, MIN:MAX; else as the job says.")] = None,
    secret: Annotated[
        list[str] | None, typer.Option(help="A Secret whose keys become environment variables. Repeatable.")
    ] = None,
    service_account: Annotated[str, typer.Option(help="Of the Ray pods.")] = "retouch",
    namespace: Annotated[str | None, typer.Option(help="Namespace; else the one it is applied to.")] = None,
    queue: Annotated[str | None, typer.Option(help="A LocalQueue of Kueue.")] = None,
    spot: Annotated[bool, typer.Option(help="Main work on nodes that the cloud may take back.")] = True,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a field: a.b=value. Repeatable.")] = None,
    output: Annotated[str | None, typer.Option(help=WHERE)] = None,
) -> None:
    """The Kubernetes objects that run a job every night, once, or keep a cluster for it: as YAML, applied by you."""
    from importlib.metadata import version

    from retouch import storage
    from retouch.deployment.kubernetes.render import KINDS, Wishes, render
    from retouch.errors import ConfigError

    if kind not in KINDS:
        raise ConfigError(f"no kind named {kind!r}; there are: {', '.join(KINDS)}")
    given = {
        "--cron": cron,
        "--timezone": timezone if timezone != "Etc/UTC" else None,
        "--kind": kind,
        "--image": image,
        "--gpus": gpus,
        "--workers": workers,
        "--secret": secret,
        "--service-account": service_account if service_account != "retouch" else None,
        "--namespace": namespace,
        "--queue": queue,
        "--set": set_,
    }
    wishes = Wishes(
        job=job,
        kind=kind,
        image=image or f"retouch:{version('retouch')}",
        cron=cron,
        timezone=timezone,
        overrides=tuple(set_ or ()),
        gpus=gpus,
        workers=_range(workers),
        secrets=tuple(secret or ()),
        service_account=service_account,
        namespace=namespace,
        queue=queue,
        spot=spot,
    )
    text = render(wishes, _command_line(job, given) + ("" if spot else " --no-spot"))
    if output is None:
        typer.echo(text, nl=False)
    else:
        storage.write_bytes(output, text.encode())
        typer.echo(f"{output}: kubectl apply -f {output}", err=True)


def night(
    template: Annotated[str, typer.Argument(help="A RayJob (YAML), as retouch schedule puts it into its ConfigMap.")],
    timezone: Annotated[str, typer.Option(help="Whose clocks.")] = "Etc/UTC",
    dated: Annotated[str, typer.Option(help="date or minute: what its name tells.")] = "date",
    job_name: Annotated[str, typer.Option(envvar="JOB_NAME", help="The CronJob's run.")] = "",
    job_uid: Annotated[str, typer.Option(envvar="JOB_UID", help="Its uid.")] = "",
    namespace: Annotated[str, typer.Option(envvar="NAMESPACE", help="Its namespace.")] = "",
) -> None:
    """Make tonight's RayJob and stay until it ends: what the pod of a scheduled CronJob runs."""
    import yaml

    from retouch import storage
    from retouch.deployment.kubernetes import nightly
    from retouch.deployment.kubernetes.cron import check_zone
    from retouch.errors import ConfigError

    if not (job_name and job_uid and namespace):
        raise ConfigError("no CronJob's run: a pod of one sets JOB_NAME, JOB_UID and NAMESPACE; see retouch schedule")
    if dated not in ("date", "minute"):
        raise ConfigError(f"--dated is {dated!r}; there are: date, minute")
    check_zone(timezone)
    body = yaml.safe_load(storage.read_bytes(template))
    run = nightly.Run(job_name, job_uid, namespace)
    jobs = nightly.in_this_pod(namespace)
    succeeded = nightly.carry_out(body, run, timezone, cast("Dated", dated), jobs, typer.echo)
    raise typer.Exit(0 if succeeded else 1)


def _range(text: str | None) -> tuple[int, int] | None:
    from retouch.errors import ConfigError

    if text is None:
        return None
    least, sign, most = text.partition(":")
    if not (sign and least.isdecimal() and most.isdecimal()):
        raise ConfigError(f"--workers {text!r} is no range; 0:4 is up to four pods")
    return int(least), int(most)


def _command_line(job: str, given: dict[str, Any]) -> str:
    words = ["retouch", "schedule", job]
    for option, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [option, str(one)]
    return shlex.join(words)
