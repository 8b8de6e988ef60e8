"""``retouch schedule``: the Kubernetes objects that run a job."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from retouch.cli.options import Overrides


def schedule(
    job: Annotated[str, typer.Argument(help="Job file (YAML) of any kind: local path or any fsspec URL.")],
    cron: Annotated[str | None, typer.Option(help="When to run: minute, hour, day, month, weekday.")] = None,
    timezone: Annotated[str, typer.Option(help="Time zone of --cron.")] = "Etc/UTC",
    kind: Annotated[str, typer.Option(help="cronjob, rayjob (once, now) or raycluster.")] = "cronjob",
    image: Annotated[
        str | None, typer.Option(help="Container image, built from cluster/Dockerfile. Default: retouch:VERSION.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="Maximum number of GPUs; 0 to run on CPUs. Default: from the job.")
    ] = None,
    workers: Annotated[str | None, typer.Option(help="Worker pods that edit, MIN:MAX. Default: from the job.")] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Secret whose keys become environment variables. Repeatable."),
    ] = None,
    service_account: Annotated[str, typer.Option(help="Service account of the Ray pods.")] = "retouch",
    namespace: Annotated[str | None, typer.Option(help="Namespace. Default: the one that kubectl applies to.")] = None,
    queue: Annotated[str | None, typer.Option(help="LocalQueue of Kueue.")] = None,
    spot: Annotated[bool, typer.Option(help="Edit on spot nodes, which the cloud may take back.")] = True,
    set_: Overrides = None,
    output: Annotated[
        str | None, typer.Option(help="File or fsspec URL to write to. Default: standard output.")
    ] = None,
) -> None:
    """Print the Kubernetes objects (YAML) that run a job every night, run it once, or keep a cluster for it."""
    from importlib.metadata import version

    from retouch import storage
    from retouch.deployment.kubernetes.render import KINDS, RenderOptions, render
    from retouch.errors import ConfigError

    if kind not in KINDS:
        raise ConfigError(f"no kind named {kind!r}; use one of: {', '.join(KINDS)}")
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
    options = RenderOptions(
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
    text = render(options, _command_line(job, given) + ("" if spot else " --no-spot"))
    if output is None:
        typer.echo(text, nl=False)
    else:
        storage.write_bytes(output, text.encode())
        typer.echo(f"{output}: kubectl apply -f {output}", err=True)


def _range(text: str | None) -> tuple[int, int] | None:
    from retouch.errors import ConfigError

    if text is None:
        return None
    least, sign, most = text.partition(":")
    if not (sign and least.isdecimal() and most.isdecimal()):
        raise ConfigError(f"--workers {text!r} is not a range; write MIN:MAX, such as 0:4 for up to four pods")
    return int(least), int(most)


def _command_line(job: str, given: dict[str, Any]) -> str:
    words = ["retouch", "schedule", job]
    for option, value in given.items():
        for one in value if isinstance(value, list) else [value]:
            words += [] if one is None else [option, str(one)]
    return shlex.join(words)
