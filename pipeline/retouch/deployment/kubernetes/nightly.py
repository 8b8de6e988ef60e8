"""One night's RayJob: made under a name that carries its date, followed to its end. What a CronJob's pod does.

The name is a function of the time at which the CronJob's run was due, so a pod that is started again, or a second one,
finds what the first one made. The RayJob belongs to the CronJob's run (owner reference) and goes with it, by the
CronJob's history limits.
"""

from __future__ import annotations

import copy
import datetime as dt
import re
import time
import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from retouch.errors import ConfigError, Interrupted

GROUP: Final = ("ray.io", "v1")
PLURAL: Final = "rayjobs"
INTERVAL: Final = 15.0  # seconds between two looks
OUT_OF_REACH: Final = 900.0  # seconds without an answer after which the pod gives way to a new one
REQUEST_SECONDS: Final = 60
DATE: Final = "{date}"
Dated = Literal["date", "minute"]
_FORMATS: Final[Mapping[str, str]] = {"date": "%Y%m%d", "minute": "%Y%m%d-%H%M"}
_ENDS: Final = ("Complete", "Failed")  # of status.jobDeploymentStatus
_REFUSED: Final = range(400, 500)
_TRY_AGAIN: Final = (408, 429)
_EXISTS: Final = 409
_GONE: Final = 404


@dataclass(frozen=True)
class Run:
    """A CronJob's run: the Job whose pod this is."""

    job_name: str
    job_uid: str
    namespace: str


class Jobs(Protocol):
    """What is asked of Kubernetes; both raise ``kubernetes.client.ApiException`` and urllib3's errors."""

    def create(self, body: Mapping[str, Any]) -> Any:
        """Make a RayJob."""

    def get(self, name: str) -> Mapping[str, Any]:
        """A RayJob as it stands."""


def due(job_name: str, now: dt.datetime) -> dt.datetime:
    """When a run was due: a CronJob's Jobs are called ``NAME-MINUTES`` (since 1970); of any other it is now."""
    found = re.search(r"-(\d{8,10})$", job_name)
    return dt.datetime.fromtimestamp(int(found[1]) * 60, dt.UTC) if found else now


def tonight(template: Mapping[str, Any], run: Run, at: dt.datetime, dated: Dated) -> dict[str, Any]:
    """The RayJob of a night.

    Args:
        template: a RayJob; ``{date}`` in its entrypoint becomes the date.
        run: whom it belongs to.
        at: when it was due, by the clocks of the schedule.
        dated: whether its name tells the date, or the minute too.
    """
    made = copy.deepcopy(dict(template))
    made["metadata"] |= {
        "name": f"{template['metadata']['name']}-{at.strftime(_FORMATS[dated])}",
        "namespace": run.namespace,
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": run.job_name, "uid": run.job_uid}],
    }
    made["spec"]["entrypoint"] = made["spec"]["entrypoint"].replace(DATE, at.date().isoformat())
    return made


def carry_out(
    template: Mapping[str, Any],
    run: Run,
    timezone: str,
    dated: Dated,
    jobs: Jobs,
    say: Callable[[str], None],
    interval: float = INTERVAL,
) -> bool:
    """Make tonight's RayJob unless it is there, and stay until it ends; whether it succeeded.

    Raises:
        ConfigError: Kubernetes refuses it, or it was deleted.
        Interrupted: Kubernetes does not answer.
    """
    at = due(run.job_name, dt.datetime.now(dt.UTC)).astimezone(zoneinfo.ZoneInfo(timezone))
    body = tonight(template, run, at, dated)
    name = body["metadata"]["name"]
    made = _answered(lambda: jobs.create(body), name, interval, _EXISTS)
    say(f"RayJob {name}: {'there already, followed' if made is None else 'made'}")
    before = ""
    while True:
        status = (_answered(lambda: jobs.get(name), name, interval) or {}).get("status") or {}
        state, outcome = status.get("jobDeploymentStatus") or "New", status.get("jobStatus") or ""
        if state != before:
            say(f"RayJob {name}: {state} {outcome} {status.get('message') or ''}".rstrip())
            before = state
        if state in _ENDS:
            return state == "Complete" and outcome == "SUCCEEDED"
        time.sleep(interval)


def in_this_pod(namespace: str) -> Jobs:
    """Kubernetes as a pod reaches it, with its service account's token, which is read again when it changes.

    Raises:
        ConfigError: this is no pod.
    """
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise ConfigError(f"not in a pod of Kubernetes ({error}); a CronJob starts this command") from None
    return RayJobs(client.CustomObjectsApi(), namespace)


@dataclass(frozen=True)
class RayJobs:
    """RayJobs of one namespace through Kubernetes' own client."""

    api: Any
    namespace: str

    def create(self, body: Mapping[str, Any]) -> Any:
        """Make a RayJob."""
        return self.api.create_namespaced_custom_object(
            *GROUP, self.namespace, PLURAL, body, _request_timeout=REQUEST_SECONDS
        )

    def get(self, name: str) -> Mapping[str, Any]:
        """A RayJob as it stands."""
        found: Mapping[str, Any] = self.api.get_namespaced_custom_object(
            *GROUP, self.namespace, PLURAL, name, _request_timeout=REQUEST_SECONDS
        )
        return found


def _answered(ask: Callable[[], Any], name: str, interval: float, expected: int | None = None) -> Any:
    """What Kubernetes answers; None where that is the expected refusal. Waits while it does not answer."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    waits_until = time.monotonic() + OUT_OF_REACH
    while True:
        try:
            return ask()
        except ApiException as error:
            if error.status == expected:
                return None
            if error.status == _GONE:
                raise ConfigError(f"RayJob {name} is gone, or KubeRay is not installed: {error.reason}") from None
            if error.status in _REFUSED and error.status not in _TRY_AGAIN:
                raise ConfigError(f"Kubernetes refuses RayJob {name}: {error.status} {_message(error)}") from None
            reason = f"{error.status} {error.reason}"
        except HTTPError as error:
            reason = str(error)
        if time.monotonic() > waits_until:
            raise Interrupted(f"Kubernetes has not answered for {OUT_OF_REACH:g} s: {reason}")
        time.sleep(interval)


def _message(error: Any) -> str:
    return " ".join(str(error.body or error.reason).split())[:500]
