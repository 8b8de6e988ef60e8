"""Create the RayJob of one scheduled run and wait until it ends: what the pod of a CronJob does.

The RayJob's name is a function of the time at which the run was due, so a pod that is restarted, or a second one, finds
the RayJob that the first one created. The CronJob's Job owns the RayJob, and the CronJob's history limits remove both.
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

import stamina

from retouch.errors import ConfigError, Interrupted

GROUP: Final = ("ray.io", "v1")
PLURAL: Final = "rayjobs"
POLL_SECONDS: Final = 15.0
API_TIMEOUT: Final = 900.0  # seconds without an answer of Kubernetes, after which a new pod takes over
REQUEST_TIMEOUT: Final = 60  # seconds
DATE: Final = "{date}"
Dated = Literal["date", "minute"]
_FORMATS: Final[Mapping[str, str]] = {"date": "%Y%m%d", "minute": "%Y%m%d-%H%M"}
_FINAL_STATES: Final = ("Complete", "Failed")  # of status.jobDeploymentStatus
_CLIENT_ERRORS: Final = range(400, 500)
_RETRIED_CLIENT_ERRORS: Final = (408, 429)
_EXISTS: Final = 409
_NOT_FOUND: Final = 404


@dataclass(frozen=True)
class CronRun:
    """One run of a CronJob: the Job to which this pod belongs."""

    job_name: str
    job_uid: str
    namespace: str


class RayJobApi(Protocol):
    """Requests to Kubernetes; both raise ``kubernetes.client.ApiException`` and urllib3's errors."""

    def create(self, body: Mapping[str, Any]) -> Any:
        """Create a RayJob."""

    def get(self, name: str) -> Mapping[str, Any]:
        """Return a RayJob with its status."""


def due_time(job_name: str, now: dt.datetime) -> dt.datetime:
    """Return when a run was due: a CronJob names its Jobs ``NAME-MINUTES`` (since 1970). For other names it is now."""
    found = re.search(r"-(\d{8,10})$", job_name)
    return dt.datetime.fromtimestamp(int(found[1]) * 60, dt.UTC) if found else now


def ray_job(template: Mapping[str, Any], run: CronRun, due: dt.datetime, dated: Dated) -> dict[str, Any]:
    """Return the RayJob of a run.

    Args:
        template: a RayJob; ``{date}`` in its entrypoint becomes the date.
        run: its owner.
        due: when the run was due, in the time zone of the schedule.
        dated: whether its name has the date only, or the minute too.
    """
    body = copy.deepcopy(dict(template))
    body["metadata"] |= {
        "name": f"{template['metadata']['name']}-{due.strftime(_FORMATS[dated])}",
        "namespace": run.namespace,
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": run.job_name, "uid": run.job_uid}],
    }
    body["spec"]["entrypoint"] = body["spec"]["entrypoint"].replace(DATE, due.date().isoformat())
    return body


def run_to_end(
    template: Mapping[str, Any],
    run: CronRun,
    timezone: str,
    dated: Dated,
    api: RayJobApi,
    report: Callable[[str], None],
) -> bool:
    """Create the RayJob of this run unless it exists, wait until it ends, and return whether it succeeded.

    Raises:
        ConfigError: Kubernetes refuses it, or it was deleted.
        Interrupted: Kubernetes does not answer.
    """
    due = due_time(run.job_name, dt.datetime.now(dt.UTC)).astimezone(zoneinfo.ZoneInfo(timezone))
    body = ray_job(template, run, due, dated)
    name = body["metadata"]["name"]
    created = _request(lambda: api.create(body), name, _EXISTS)
    report(f"RayJob {name}: {'exists already' if created is None else 'created'}")
    last = ""
    while True:
        status = (_request(lambda: api.get(name), name) or {}).get("status") or {}
        state, outcome = status.get("jobDeploymentStatus") or "New", status.get("jobStatus") or ""
        if state != last:
            report(f"RayJob {name}: {state} {outcome} {status.get('message') or ''}".rstrip())
            last = state
        if state in _FINAL_STATES:
            return state == "Complete" and outcome == "SUCCEEDED"
        time.sleep(POLL_SECONDS)


def in_this_pod(namespace: str) -> RayJobApi:
    """Return Kubernetes' API with the token of this pod's service account, which is read again when it changes.

    Raises:
        ConfigError: this is not a pod.
    """
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise ConfigError(f"not in a pod of Kubernetes ({error}); a CronJob starts this command") from None
    return KubernetesApi(client.CustomObjectsApi(), namespace)


@dataclass(frozen=True)
class KubernetesApi:
    """RayJobs of one namespace, through Kubernetes' own client."""

    api: Any
    namespace: str

    def create(self, body: Mapping[str, Any]) -> Any:
        """Create a RayJob."""
        return self.api.create_namespaced_custom_object(
            *GROUP, self.namespace, PLURAL, body, _request_timeout=REQUEST_TIMEOUT
        )

    def get(self, name: str) -> Mapping[str, Any]:
        """Return a RayJob with its status."""
        found: Mapping[str, Any] = self.api.get_namespaced_custom_object(
            *GROUP, self.namespace, PLURAL, name, _request_timeout=REQUEST_TIMEOUT
        )
        return found


def _request(request: Callable[[], Any], name: str, expected_error: int | None = None) -> Any:
    """Return Kubernetes' answer, None for the expected error; try again while it does not answer."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    def is_temporary(error: Exception) -> bool:
        if not isinstance(error, ApiException):
            return isinstance(error, HTTPError)
        return error.status not in _CLIENT_ERRORS or error.status in _RETRIED_CLIENT_ERRORS

    retries = stamina.retry_context(
        is_temporary,
        attempts=None,
        timeout=API_TIMEOUT,
        wait_initial=POLL_SECONDS,
        wait_max=POLL_SECONDS,
        wait_jitter=0.0,
    )
    try:
        for attempt in retries:
            with attempt:
                return request()
    except HTTPError as error:
        raise Interrupted(f"Kubernetes did not answer for {API_TIMEOUT:g} s: {error}") from None
    except ApiException as error:
        if is_temporary(error):
            raise Interrupted(f"Kubernetes did not answer for {API_TIMEOUT:g} s: {_reason(error)}") from None
        if error.status == expected_error:
            return None
        if error.status == _NOT_FOUND:
            raise ConfigError(f"RayJob {name} is gone, or KubeRay is not installed: {error.reason}") from None
        raise ConfigError(f"Kubernetes refuses RayJob {name}: {_reason(error)}") from None
    raise AssertionError("unreachable: the last attempt returns or raises")


def _reason(error: Any) -> str:
    return f"{error.status} {' '.join(str(error.body or error.reason).split())}"[:500]
