"""What KubeRay's operator refuses although the schema allows it."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from typing import Any

import yaml
from croniter import croniter

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST = {"RayCluster": 53, "RayJob": 47, "CronJob": 52}
MODES = ("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode")
STARTED_WITH = ("num-cpus", "num-gpus", "memory", "resources")


def faults(document: dict[str, Any]) -> list[str]:
    """Return the errors that the operator would have about a document."""
    return list(_faults(document))


def _faults(document: dict[str, Any]) -> Iterator[str]:
    kind, spec = document["kind"], document["spec"]
    yield from _name(kind, document["metadata"]["name"])
    if kind == "RayCluster":
        yield from _cluster(spec)
    elif kind == "RayJob":
        yield from _job(spec)
    elif kind == "CronJob":
        yield from _schedule(spec)


def _name(kind: str, name: str) -> Iterator[str]:
    if kind in LONGEST and len(name) > LONGEST[kind]:
        yield f"name: {kind} has {LONGEST[kind]} characters at most"
    if kind.startswith("Ray") and not LABEL.fullmatch(name):
        yield f"name: {name} is no DNS label that begins with a letter"


def _schedule(spec: dict[str, Any]) -> Iterator[str]:
    schedule = spec["schedule"]
    if "TZ" in schedule:
        yield "schedule: no TZ in it; there is timeZone"
    elif len(schedule.split()) != 5 or not croniter.is_valid(schedule):
        yield f"schedule: {schedule!r}"
    if "timeZone" in spec and spec["timeZone"] not in zoneinfo.available_timezones():
        yield f"timeZone: {spec['timeZone']!r}"


def _job(spec: dict[str, Any]) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    selects = bool(spec.get("clusterSelector"))
    if mode not in MODES:
        yield f"submissionMode: {mode}"
    if selects == ("rayClusterSpec" in spec):
        yield "one of rayClusterSpec and clusterSelector"
    if spec.get("backoffLimit", 0) < 0 or (spec.get("backoffLimit") and (selects or mode == "InteractiveMode")):
        yield "backoffLimit"
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(name, 1) <= 0:
            yield name
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttlSecondsAfterFinished"
    if not spec.get("shutdownAfterJobFinishes") and (spec.get("ttlSecondsAfterFinished") or spec.get("suspend")):
        yield "ttlSecondsAfterFinished and suspend want shutdownAfterJobFinishes"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "submitterPodTemplate in SidecarMode"
    try:
        environment = yaml.safe_load(spec.get("runtimeEnvYAML") or "{}")
    except yaml.YAMLError:
        environment = None
    if not isinstance(environment, dict):
        yield "runtimeEnvYAML"
    if "rayClusterSpec" in spec:
        yield from _cluster(spec["rayClusterSpec"])


def _cluster(spec: dict[str, Any]) -> Iterator[str]:
    grows = spec.get("enableInTreeAutoscaling", False)
    is_v2 = grows and spec.get("autoscalerOptions", {}).get("version") == "v2"
    for group in (spec["headGroupSpec"], *spec.get("workerGroupSpecs", ())):
        name = group.get("groupName", "head")
        pod = group["template"]["spec"]
        if not pod.get("containers"):
            yield f"{name}: no container"
        params = group.get("rayStartParams", {})
        if group.get("resources") and any(param in params for param in STARTED_WITH):
            yield f"{name}: resources twice"
        if "labels" in params:
            yield f"{name}: labels in rayStartParams"
        if is_v2 and pod.get("restartPolicy", "Never") != "Never":
            yield f"{name}: restartPolicy with autoscaler v2"
        if "idleTimeoutSeconds" in group and not is_v2:
            yield f"{name}: idleTimeoutSeconds without autoscaler v2"
        least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
        if not 0 <= least <= most:
            yield f"{name}: minReplicas {least}, maxReplicas {most}"
        if name != "head" and not grows and not {"minReplicas", "maxReplicas"} <= set(group):
            yield f"{name}: minReplicas and maxReplicas where nothing scales"
    if spec.get("authOptions", {}).get("mode") == "token":
        if not re.fullmatch(r"\d+\.\d+\.\d+", spec.get("rayVersion", "")):
            yield "authOptions: wants rayVersion"
        elif tuple(map(int, spec["rayVersion"].split("."))) < (2, 52, 0):
            yield "authOptions: wants Ray 2.52"
    if spec.get("autoscalerOptions", {}).get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds"
