"""A Ray cluster as KubeRay takes it: head, CPU group, GPU group. Knows Kubernetes' shapes, and no job.

The head runs the command and no task (``num-cpus: 0``): what it holds must not be killed for want of memory. Decode and
write tasks go to the CPU group. GPU nodes offer GPUs and no CPU, so that nothing but editors lands on them, unless what
runs there takes both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

RAY_CONTAINER: Final = 0  # KubeRay takes the first container for Ray's
JOB_FOLDER: Final = "/etc/retouch"
CACHE_FOLDER: Final = "/cache"
USER: Final = 1000  # of the image
WAIT_FOR_NODES: Final = 1800  # seconds; a spot GPU that takes longer than this is not coming

NO_MORE_RIGHTS: Final[Mapping[str, Any]] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
HEAD: Final = {"cpu": "2", "memory": "8Gi"}
# A decode or write task takes half a CPU and, of large images, some hundred MB.
CPU_WORKER: Final = {"cpu": "4", "memory": "16Gi"}
# Fits a g5.2xlarge or g2-standard-8 (8 CPUs, 32 GiB, one GPU) beside what the node itself needs.
GPU_WORKER: Final = {"cpu": "6", "memory": "26Gi"}
CACHE_SIZE: Final = "100Gi"  # of a node's disk, for weights: they are no part of the image
DRAIN_SECONDS: Final = 90  # a spot node is told two minutes ahead on AWS, and half a minute on Google's cloud
GRACE_SECONDS: Final = DRAIN_SECONDS + 30

# What every Ray process of a cluster is told; values are texts, as environment variables are.
ENVIRONMENT: Final[Mapping[str, str]] = {
    # A link that is cut without a word leaves tasks in flight hanging with Ray's own keepalive of five minutes.
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # A node is declared dead after 5 x (3 + 5) s at most. Shorter, and a busy node is lost; longer, and GPUs idle.
    "RAY_health_check_initial_delay_ms": "5000",
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "5",
    # Version 2 packs small Parquet files into one block and starts 32 actors to read four of them.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    "RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL": "60",  # seconds; a log is read by people
    "RAY_DATA_LOG_ENCODING": "JSON",
    # A stopped command gets this long to commit what it has; Ray's own 3 s are not enough.
    "RAY_JOB_STOP_WAIT_TIME_S": "60",
    "RETOUCH_CACHE": CACHE_FOLDER,
    "HF_HOME": f"{CACHE_FOLDER}/huggingface",
    "PYTHONUNBUFFERED": "1",
}
# Ray shows every GPU of the node to a process that asked for none; torch would take it.
WITHOUT_GPU: Final[Mapping[str, str]] = {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
# Only of a cluster that grows by itself: how long the command waits for a first node.
GROWING: Final[Mapping[str, str]] = {"RETOUCH_WAIT_FOR_NODES": str(WAIT_FOR_NODES)}

# What nodes that a cloud may take back are labelled with, by who labels them: EKS, Karpenter, GKE.
_SPOT: Final = (
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("karpenter.sh/capacity-type", "spot"),
    ("cloud.google.com/gke-spot", "true"),
)
# Lets go of tasks before the node does: what runs ends or is done again elsewhere, nothing new comes. Ends early where
# the cluster is gone already, or Ray on this node is.
_DRAIN: Final = (
    "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'the pod is being stopped'"
    f" --deadline-remaining-seconds {DRAIN_SECONDS} && for _ in $(seq {DRAIN_SECONDS});"
    " do pgrep raylet >/dev/null || break; sleep 1; done"
)


@dataclass(frozen=True)
class Workers:
    """The pods that do a job's main work."""

    gpus: int = 1  # a pod; with 0 they are CPU pods
    least: int = 0  # pods
    most: int = 1
    cpus: int = 0  # that a GPU pod offers to Ray, for work that takes CPUs beside its GPU
    resources: Mapping[str, float] = field(default_factory=dict)  # custom ones that a pod offers


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster's wishes."""

    image: str
    ray_version: str
    service_account: str
    workers: Workers
    decodes: bool = True  # whether there are decode and write tasks beside the main work
    secrets: tuple[str, ...] = ()  # names; each of its keys becomes an environment variable
    job: str | None = None  # ConfigMap whose keys are files in JOB_FOLDER, on the head
    spot: bool = True
    grows: bool = True  # by Ray's autoscaler; else all pods are there from the start


def ray_cluster_spec(cluster: Cluster) -> dict[str, Any]:
    """``spec`` of a RayCluster, which is also a RayJob's ``rayClusterSpec``."""
    spec: dict[str, Any] = {
        "rayVersion": cluster.ray_version,
        "authOptions": {"mode": "token"},  # KubeRay makes the token, and tells it to every container
    }
    if cluster.grows:
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": 300,
            "securityContext": dict(NO_MORE_RIGHTS),
            "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "500m", "memory": "1Gi"}},
        }
    spec["headGroupSpec"] = {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
        "template": _head(cluster),
    }
    spec["workerGroupSpecs"] = _groups(cluster)
    return spec


def hardened(spec: dict[str, Any]) -> dict[str, Any]:
    """A pod's spec with what the Pod Security Standard ``restricted`` asks for."""
    containers = [{**each, "securityContext": dict(NO_MORE_RIGHTS)} for each in spec["containers"]]
    who = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {**spec, "securityContext": who, "containers": containers}


def _head(cluster: Cluster) -> dict[str, Any]:
    variables = {**ENVIRONMENT, **WITHOUT_GPU, **(GROWING if cluster.grows else {})}
    container = _container(cluster, "ray-head", HEAD, variables)
    container["ports"] = [
        {"name": "gcs-server", "containerPort": 6379},
        {"name": "dashboard", "containerPort": 8265},
        {"name": "client", "containerPort": 10001},
        {"name": "metrics", "containerPort": 8080},
    ]
    volumes = [_cache_volume()]
    if cluster.job is not None:
        container["volumeMounts"].append({"name": "job", "mountPath": JOB_FOLDER, "readOnly": True})
        volumes.append({"name": "job", "configMap": {"name": cluster.job}})
    # Nothing is lost with the head but time; yet all of a run's GPUs wait while it starts again. The two annotations
    # are read by the cluster autoscaler and by Karpenter.
    steady = [{"key": key, "operator": "NotIn", "values": [value]} for key, value in _SPOT]
    return {
        "metadata": {
            "annotations": {
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            }
        },
        "spec": hardened(
            {
                "serviceAccountName": cluster.service_account,
                "affinity": _affinity([{"matchExpressions": steady}]),
                "containers": [container],
                "volumes": volumes,
            }
        ),
    }


def _groups(cluster: Cluster) -> list[dict[str, Any]]:
    workers = cluster.workers
    groups = []
    if cluster.decodes and workers.gpus:
        # One CPU pod for two of GPUs: a decode or write task takes a hundredth of an edit's time.
        most = max(1, (workers.most + 1) // 2)
        groups.append(_group(cluster, "cpu", (1, most), CPU_WORKER, {}, spot=False))
    if workers.gpus:
        gpu = str(workers.gpus)
        size = {name: _times(amount, workers.gpus) for name, amount in GPU_WORKER.items()}
        size["cpu"] = str(max(int(size["cpu"]), workers.cpus))
        params = {"num-cpus": str(workers.cpus), "num-gpus": gpu, **_custom(workers.resources)}
        count = (workers.least, workers.most)
        groups.append(_group(cluster, "gpu", count, {**size, "nvidia.com/gpu": gpu}, params, spot=cluster.spot))
    else:
        count = (max(1, workers.least), workers.most)  # one, so that a command finds CPUs
        size = {**CPU_WORKER, "cpu": str(max(int(CPU_WORKER["cpu"]), workers.cpus))}
        groups.append(_group(cluster, "cpu", count, size, _custom(workers.resources), spot=cluster.spot))
    return groups


def _group(
    cluster: Cluster, name: str, count: tuple[int, int], size: Mapping[str, str], params: dict[str, str], spot: bool
) -> dict[str, Any]:
    has_gpu = "nvidia.com/gpu" in size
    container = _container(cluster, f"ray-{name}", size, {**ENVIRONMENT, **({} if has_gpu else WITHOUT_GPU)})
    container["ports"] = [{"name": "metrics", "containerPort": 8080}]
    container["lifecycle"] = {"preStop": {"exec": {"command": ["/bin/sh", "-c", _DRAIN]}}}
    spec: dict[str, Any] = {
        "serviceAccountName": cluster.service_account,
        "automountServiceAccountToken": False,  # nobody there talks to Kubernetes; S3's tokens are mounted all the same
        "terminationGracePeriodSeconds": GRACE_SECONDS,
    }
    tolerations = []
    if has_gpu:
        tolerations.append({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"})
    if spot:
        # Any of them: terms of a node selector are alternatives.
        spec["affinity"] = _affinity(
            [{"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]} for key, value in _SPOT]
        )
        tolerations.append({"key": _SPOT[2][0], "operator": "Equal", "value": _SPOT[2][1], "effect": "NoSchedule"})
    if tolerations:
        spec["tolerations"] = tolerations
    spec |= {"containers": [container], "volumes": [_cache_volume()]}
    least, most = count if cluster.grows else (count[1], count[1])
    return {
        "groupName": name,
        "replicas": least,
        "minReplicas": least,
        "maxReplicas": most,
        "rayStartParams": params,
        "template": {"spec": hardened(spec)},
    }


def _container(cluster: Cluster, name: str, size: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": name,
        "image": cluster.image,
        "resources": {"requests": dict(size), "limits": dict(size)},
        "env": [{"name": key, "value": value} for key, value in variables.items()],
    }
    if cluster.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in cluster.secrets]
    container["volumeMounts"] = [{"name": "cache", "mountPath": CACHE_FOLDER}]
    return container


def _cache_volume() -> dict[str, Any]:
    return {"name": "cache", "emptyDir": {"sizeLimit": CACHE_SIZE}}


def _affinity(terms: list[dict[str, Any]]) -> dict[str, Any]:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def _custom(resources: Mapping[str, float]) -> dict[str, str]:
    # In quotes, which a shell, KubeRay and Ray's autoscaler each take off; the last one wants whole numbers.
    whole = {name: math.ceil(amount) for name, amount in resources.items()}
    return {"resources": f"'{json.dumps(whole)}'"} if whole else {}


def _times(amount: str, count: int) -> str:
    number = amount.rstrip("Gi")
    return f"{int(number) * count}{amount.removeprefix(number)}"
