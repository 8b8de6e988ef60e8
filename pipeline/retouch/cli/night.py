"""``retouch night``: what the pod of a scheduled CronJob runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from retouch.deployment.kubernetes.nightly import Dated


def night(
    template: Annotated[str, typer.Argument(help="RayJob (YAML), as retouch schedule writes it to its ConfigMap.")],
    timezone: Annotated[str, typer.Option(help="Time zone of the schedule.")] = "Etc/UTC",
    dated: Annotated[str, typer.Option(help="What the RayJob's name contains: date or minute.")] = "date",
    job_name: Annotated[str, typer.Option(envvar="JOB_NAME", help="Name of the CronJob's Job.")] = "",
    job_uid: Annotated[str, typer.Option(envvar="JOB_UID", help="Its uid.")] = "",
    namespace: Annotated[str, typer.Option(envvar="NAMESPACE", help="Its namespace.")] = "",
) -> None:
    """Create this run's RayJob and wait until it ends. Runs in the pod of a scheduled CronJob."""
    import yaml

    from retouch import storage
    from retouch.deployment.kubernetes import nightly
    from retouch.deployment.kubernetes.cron import check_zone
    from retouch.errors import ConfigError

    if not (job_name and job_uid and namespace):
        raise ConfigError("not in a CronJob's pod: JOB_NAME, JOB_UID and NAMESPACE are not set; use retouch schedule")
    if dated not in ("date", "minute"):
        raise ConfigError(f"--dated {dated!r}: unknown; use date or minute")
    check_zone(timezone)
    body = yaml.safe_load(storage.read_bytes(template))
    run = nightly.CronRun(job_name, job_uid, namespace)
    api = nightly.in_this_pod(namespace)
    succeeded = nightly.run_to_end(body, run, timezone, cast("Dated", dated), api, typer.echo)
    raise typer.Exit(0 if succeeded else 1)
