"""RayJobs and the CronJob that makes one a night, as Kubernetes takes them. Knows no job of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from retouch.deployment.kubernetes.pods import Cluster, hardened, ray_cluster_spec

RETRIES: Final = 3  # of a RayJob each is a new cluster, and goes on where the last one stopped
START_SECONDS: Final = 1800  # for head and first CPU pod to be there; large images take minutes to pull
KEPT_SECONDS: Final = 600  # a finished cluster stays, for its last metrics to be read and a look at its dashboard
LATEST_START: Final = 3600  # seconds; a night that could not begin until then is left to the next
HISTORY: Final = 7  # nights whose objects are kept
SUBMITTER: Final = {"cpu": "250m", "memory": "512Mi"}
NIGHT_ACCOUNT: Final = "retouch-schedule"  # may make RayJobs and look at them, and nothing else
NIGHT_FILE: Final = "rayjob.yaml"
NIGHT_FOLDER: Final = "/etc/night"
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
_QUEUED: Final = ("RayJob", "RayCluster")


@dataclass(frozen=True)
class Origin:
    """What all objects of one job share."""

    name: str
    namespace: str | None = None
    queue: str | None = None  # of Kueue

    @property
    def labels(self) -> dict[str, str]:
        """By which they are found."""
        return {"app.kubernetes.io/name": "retouch", "app.kubernetes.io/instance": self.name}


def kube_object(api: str, kind: str, origin: Origin, **body: Mapping[str, Any]) -> dict[str, Any]:
    """An object of a job; ``body`` is ``spec`` or ``data``."""
    queued = {QUEUE_LABEL: origin.queue} if origin.queue is not None and kind in _QUEUED else {}
    metadata: dict[str, Any] = {"name": origin.name, "labels": {**origin.labels, **queued}}
    if origin.namespace is not None:
        metadata["namespace"] = origin.namespace
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **{name: dict(part) for name, part in body.items()}}


def ray_job_spec(cluster: Cluster, entrypoint: str, deadline: int, is_queued: bool) -> dict[str, Any]:
    """``spec`` of a RayJob, which is also a RayCronJob's ``jobTemplate``.

    Args:
        cluster: where it runs; gone again afterwards.
        entrypoint: the command, on the head; no word of it may mean anything to a shell.
        deadline: seconds that one try may take.
        is_queued: whether it may wait long before it starts.
    """
    container = {
        "name": "ray-job-submitter",
        "image": cluster.image,
        "resources": {"requests": dict(SUBMITTER), "limits": {**SUBMITTER, "cpu": "1"}},
    }
    submitter = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
    return {
        "entrypoint": entrypoint,
        "backoffLimit": RETRIES,
        "activeDeadlineSeconds": deadline,
        **({} if is_queued else {"preRunningDeadlineSeconds": START_SECONDS}),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "submitterPodTemplate": {"spec": hardened(submitter)},
        "rayClusterSpec": ray_cluster_spec(cluster),
    }


def cron_job(origin: Origin, image: str, cron: str, timezone: str, dated: str, deadline: int) -> dict[str, Any]:
    """The CronJob whose pod makes a night's RayJob and stays until that is over.

    Args:
        origin: whose ConfigMap holds the RayJob, too.
        image: ours.
        cron: when, by the clocks of ``timezone``.
        timezone: a name of the tz database.
        dated: ``date`` or ``minute``: what a night's name tells of its time.
        deadline: seconds that the RayJob may take.
    """
    labels = {"JOB_NAME": "batch.kubernetes.io/job-name", "JOB_UID": "batch.kubernetes.io/controller-uid"}
    paths = {**{key: f"metadata.labels['{label}']" for key, label in labels.items()}, "NAMESPACE": "metadata.namespace"}
    container = {
        "name": "night",
        "image": image,
        "command": ["retouch", "night", f"{NIGHT_FOLDER}/{NIGHT_FILE}"],
        "args": ["--timezone", timezone, "--dated", dated],
        "env": [{"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in paths.items()],
        "resources": {"requests": dict(SUBMITTER), "limits": {**SUBMITTER, "cpu": "1"}},
        "volumeMounts": [{"name": "night", "mountPath": NIGHT_FOLDER, "readOnly": True}],
    }
    file = {"name": origin.name, "items": [{"key": NIGHT_FILE, "path": NIGHT_FILE}]}
    pod = {
        "serviceAccountName": NIGHT_ACCOUNT,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "night", "configMap": file}],
    }
    job = {
        "backoffLimit": RETRIES,  # of the pod, not of the run
        "activeDeadlineSeconds": deadline + KEPT_SECONDS,
        "podFailurePolicy": {
            "rules": [
                # Its node went: another pod finds the same night's RayJob and goes on waiting.
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                # The run failed, or no RayJob can be made of this: trying again changes neither.
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2]}},
            ]
        },
        "template": {"metadata": {"labels": origin.labels}, "spec": hardened(pod)},
    }
    spec = {
        "schedule": cron,
        "timeZone": timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": LATEST_START,
        "successfulJobsHistoryLimit": HISTORY,
        "failedJobsHistoryLimit": HISTORY,
        "jobTemplate": {"spec": job},
    }
    return kube_object("batch/v1", "CronJob", origin, spec=spec)
