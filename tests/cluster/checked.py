"""All checks of all objects in a YAML text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import yaml

from tests.cluster import crds, rules

CONTAINERS = ("containers", "initContainers")
# Of the Prometheus operator's schema what we use; it comes with neither KubeRay nor Kubernetes.
POD_MONITOR = {
    "selector": {"matchLabels", "matchExpressions"},
    "podMetricsEndpoints": {"port", "interval", "honorLabels", "relabelings"},
}


def objects(text: str) -> list[dict[str, Any]]:
    """All objects of a text, those in ConfigMaps among them."""
    found = [one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one]
    inner = [one["data"]["rayjob.yaml"] for one in found if "rayjob.yaml" in one.get("data", {})]
    return [*found, *(each for one in inner for each in objects(one))]


def faults(text: str) -> list[str]:
    """All that is wrong with the objects of a text."""
    return [
        f"{one['kind']} {one['metadata']['name']}: {fault}"
        for one in objects(text)
        for fault in [*_structure(one), *_ours(one)]
    ]


def _structure(one: dict[str, Any]) -> Iterator[str]:
    api = one["apiVersion"]
    if api.startswith("ray.io/"):
        yield from crds.faults(one)
        yield from rules.faults(one)
    elif one["kind"] == "PodMonitor":
        for name, fields in POD_MONITOR.items():
            for part in one["spec"][name] if isinstance(one["spec"][name], list) else [one["spec"][name]]:
                yield from (f"{name}: {field}" for field in set(part) - fields)
        yield from (f"unknown: {name}" for name in set(one["spec"]) - set(POD_MONITOR))
    else:
        try:
            kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{error.path}: {error.message}"
        if one["kind"] == "CronJob":
            yield from rules.faults(one)


def _ours(one: dict[str, Any]) -> Iterator[str]:
    for pod in pods(one):
        if not pod.get("securityContext", {}).get("runAsNonRoot"):
            yield "a pod that may be root"
        for container in (each for kind in CONTAINERS for each in pod.get(kind, ())):
            if container["securityContext"] != {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}:
                yield f"{container['name']}: may gain rights"
            if "memory" not in container["resources"]["limits"]:
                yield f"{container['name']}: memory without a limit"
        names = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] not in names:
                    yield f"{container['name']}: no volume {mount['name']}"


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec at any depth."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for inner in node.values():
            yield from pods(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from pods(inner)
