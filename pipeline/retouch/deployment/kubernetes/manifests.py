"""Kubernetes objects of a job: a RayCluster, a RayJob, and a CronJob that creates a RayJob per run.

Their fields are in ``templates/``; this module computes what the templates insert.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jinja2
import yaml

JOB_FOLDER: Final = "/etc/retouch"
RUN_FOLDER: Final = "/etc/night"
RUN_FILE: Final = "rayjob.yaml"  # in RUN_FOLDER: the RayJob that the CronJob's pod creates
CACHE_FOLDER: Final = "/cache"
USER: Final = 1000  # of the image
SCHEDULE_ACCOUNT: Final = "retouch-schedule"  # may create and read RayJobs, and nothing else
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
QUEUED_KINDS: Final = ("RayJob", "RayCluster")

RETRIES: Final = 3
KEPT_SECONDS: Final = 600  # a finished cluster stays for its last metrics and for a look at its dashboard
DRAIN_SECONDS: Final = 90  # AWS announces the end of a spot node 120 s ahead, Google 30 s
WAIT_FOR_NODES: Final = 1800  # seconds; a spot GPU that takes longer is not coming

HEAD: Final = {"cpu": "2", "memory": "8Gi"}
# A decode or write task uses half a CPU and, with large images, a few hundred MB.
CPU_WORKER: Final = {"cpu": "4", "memory": "16Gi"}
# Fits a g5.2xlarge or g2-standard-8 (8 CPUs, 32 GiB, one GPU) together with what the node itself needs.
GPU_WORKER: Final = {"cpu": "6", "memory": "26Gi"}
CACHE_SIZE: Final = "100Gi"  # of a node's disk, for weights: the image holds none

# Environment variables of every Ray process of a cluster.
ENVIRONMENT: Final[Mapping[str, str]] = {
    # With Ray's own keepalive of five minutes, a silently cut link leaves tasks hanging.
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # A node is declared dead after at most 5 x (3 + 5) s. If shorter, a busy node is lost; if longer, GPUs idle.
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    # Version 2 packs small Parquet files into one block and starts 32 actors to read four of them.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    "RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL": "60",  # seconds; people read these logs
    "RAY_DATA_LOG_ENCODING": "JSON",
    # Time for a stopped command to commit what it has; Ray's default of 3 s is not enough.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "RETOUCH_CACHE": CACHE_FOLDER,
    "HF_HOME": f"{CACHE_FOLDER}/huggingface",
    "PYTHONUNBUFFERED": "1",
}
# Ray shows every GPU of a node to a process that asked for none, and torch would use it.
WITHOUT_GPU: Final[Mapping[str, str]] = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
# Only of a cluster that autoscales: how long the command waits for its first node.
AUTOSCALING: Final[Mapping[str, str]] = {"RETOUCH_WAIT_FOR_NODES": str(WAIT_FOR_NODES)}

# What the Pod Security Standard `restricted` asks of a container and of a pod.
_CONTAINER_SECURITY: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_POD_SECURITY: Final = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Workers:
    """The pods that do a job's main work."""

    gpus: int = 1  # per pod; 0 for CPU pods
    min_pods: int = 0
    max_pods: int = 1
    cpus: int = 0  # that a GPU pod offers to Ray, for work that takes CPUs next to its GPU
    resources: Mapping[str, float] = field(default_factory=dict)  # custom ones that a pod offers


@dataclass(frozen=True)
class Cluster:
    """What a Ray cluster is made of."""

    image: str
    ray_version: str
    service_account: str
    workers: Workers
    has_decode_tasks: bool = True  # whether decode and write tasks need CPUs of their own
    secrets: tuple[str, ...] = ()  # names; each of their keys becomes an environment variable
    job: str | None = None  # ConfigMap whose keys are files in JOB_FOLDER, on the head
    spot: bool = True
    autoscales: bool = True  # by Ray's autoscaler; else all pods exist from the start


@dataclass(frozen=True)
class Metadata:
    """What all objects of one job share."""

    name: str
    namespace: str | None = None
    queue: str | None = None  # of Kueue

    @property
    def labels(self) -> dict[str, str]:
        """Labels that select the objects of this job."""
        return {"app.kubernetes.io/name": "retouch", "app.kubernetes.io/instance": self.name}


@dataclass(frozen=True)
class _Group:
    """A group of equal worker pods."""

    name: str
    min_pods: int
    max_pods: int
    size: Mapping[str, str]
    start_params: Mapping[str, str]
    spot: bool

    @property
    def has_gpu(self) -> bool:
        return "nvidia.com/gpu" in self.size

    @property
    def environment(self) -> dict[str, str]:
        return {**ENVIRONMENT, **({} if self.has_gpu else WITHOUT_GPU)}


def kube_object(api: str, kind: str, metadata: Metadata, **body: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object of a job; ``body`` is ``spec`` or ``data``."""
    queue = {QUEUE_LABEL: metadata.queue} if metadata.queue is not None and kind in QUEUED_KINDS else {}
    fields: dict[str, Any] = {"name": metadata.name, "labels": {**metadata.labels, **queue}}
    if metadata.namespace is not None:
        fields["namespace"] = metadata.namespace
    return {"apiVersion": api, "kind": kind, "metadata": fields, **{name: dict(part) for name, part in body.items()}}


def ray_cluster_spec(cluster: Cluster) -> dict[str, Any]:
    """Return the ``spec`` of a RayCluster."""
    return _rendered(
        "raycluster",
        cluster=cluster,
        head={
            "size": HEAD,
            "environment": {**ENVIRONMENT, **WITHOUT_GPU, **(AUTOSCALING if cluster.autoscales else {})},
        },
        groups=_groups(cluster),
        job_folder=JOB_FOLDER,
        cache_folder=CACHE_FOLDER,
        cache_size=CACHE_SIZE,
        drain_seconds=DRAIN_SECONDS,
    )


def ray_job_spec(cluster: Cluster, entrypoint: str, deadline: int, is_queued: bool) -> dict[str, Any]:
    """Return the ``spec`` of a RayJob.

    Args:
        cluster: where it runs; deleted afterwards.
        entrypoint: the command, on the head; no word of it may mean anything to a shell.
        deadline: seconds that one attempt may take.
        is_queued: whether it may wait long before it starts.
    """
    spec = _rendered(
        "rayjob",
        image=cluster.image,
        entrypoint=entrypoint,
        deadline=deadline,
        queued=is_queued,
        retries=RETRIES,
        kept_seconds=KEPT_SECONDS,
    )
    return {**spec, "rayClusterSpec": ray_cluster_spec(cluster)}


def cron_job(metadata: Metadata, image: str, cron: str, timezone: str, dated: str, deadline: int) -> dict[str, Any]:
    """Return the CronJob whose pod creates the RayJob of each run and stays until it is over.

    Args:
        metadata: the job's; the ConfigMap of the same name holds the RayJob.
        image: ours.
        cron: when, in ``timezone``.
        timezone: a name of the tz database.
        dated: ``date`` or ``minute``: the precision of the time in a RayJob's name.
        deadline: seconds that the RayJob may take.
    """
    spec = _rendered(
        "cronjob",
        name=metadata.name,
        labels=metadata.labels,
        image=image,
        cron=cron,
        timezone=timezone,
        dated=dated,
        deadline=deadline,
        retries=RETRIES,
        kept_seconds=KEPT_SECONDS,
        service_account=SCHEDULE_ACCOUNT,
        folder=RUN_FOLDER,
        file=RUN_FILE,
    )
    return kube_object("batch/v1", "CronJob", metadata, spec=spec)


def _rendered(template: str, **values: Any) -> dict[str, Any]:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("retouch.deployment.kubernetes"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    text = environment.get_template(f"{template}.yaml.j2").render(
        container_security=_CONTAINER_SECURITY, pod_security=_POD_SECURITY, **values
    )
    spec: dict[str, Any] = yaml.safe_load(text)
    return spec


def _groups(cluster: Cluster) -> list[_Group]:
    workers, groups = cluster.workers, []

    def group(name: str, min_pods: int, max_pods: int, size: Mapping[str, str], **params: Any) -> _Group:
        return _Group(name, min_pods if cluster.autoscales else max_pods, max_pods, size, **params)

    if cluster.has_decode_tasks and workers.gpus:
        # One CPU pod per two GPU pods: a decode or write task takes a hundredth of an edit's time.
        most = max(1, (workers.max_pods + 1) // 2)
        groups.append(group("cpu", 1, most, CPU_WORKER, start_params={}, spot=False))
    custom = _custom_resources(workers.resources)
    if workers.gpus:
        size = {name: _times(amount, workers.gpus) for name, amount in GPU_WORKER.items()}
        size |= {"cpu": str(max(int(size["cpu"]), workers.cpus)), "nvidia.com/gpu": str(workers.gpus)}
        params = {"num-cpus": str(workers.cpus), "num-gpus": str(workers.gpus), **custom}
        groups.append(group("gpu", workers.min_pods, workers.max_pods, size, start_params=params, spot=cluster.spot))
    else:
        size = {**CPU_WORKER, "cpu": str(max(int(CPU_WORKER["cpu"]), workers.cpus))}
        least = max(1, workers.min_pods)  # so that the command finds a CPU
        groups.append(group("cpu", least, workers.max_pods, size, start_params=custom, spot=cluster.spot))
    return groups


def _custom_resources(resources: Mapping[str, float]) -> dict[str, str]:
    # Quoted, because a shell, KubeRay and the autoscaler each remove quotes; the autoscaler accepts whole numbers only.
    whole = {name: math.ceil(amount) for name, amount in resources.items()}
    return {"resources": f"'{json.dumps(whole)}'"} if whole else {}


def _times(amount: str, count: int) -> str:
    number = amount.rstrip("Gi")
    return f"{int(number) * count}{amount.removeprefix(number)}"
