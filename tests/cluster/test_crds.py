"""The validator that the other tests use: a valid object passes, and every kind of damage is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster import crds, rules

CONTAINER = {"name": "ray", "image": "retouch:0.1.0", "ports": [{"containerPort": 8080, "protocol": "TCP"}]}
CLUSTER = {
    "rayVersion": "2.60.0",
    "authOptions": {"mode": "token"},
    "headGroupSpec": {"rayStartParams": {}, "template": {"spec": {"containers": [CONTAINER]}}},
    "workerGroupSpecs": [
        {
            "groupName": "gpu",
            "minReplicas": 0,
            "maxReplicas": 2,
            "replicas": 0,
            "rayStartParams": {"num-cpus": "0"},
            "template": {"spec": {"containers": [CONTAINER]}},
        }
    ],
}
JOB = {"entrypoint": "retouch run job.yaml", "shutdownAfterJobFinishes": True, "rayClusterSpec": CLUSTER}
RAY_JOB = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "nightly"}, "spec": JOB}
CRON_JOB = {
    "apiVersion": "batch/v1",
    "kind": "CronJob",
    "metadata": {"name": "nightly"},
    "spec": {"schedule": "0 2 * * *", "timeZone": "Europe/Berlin"},
}

Damage = Callable[[dict[str, Any]], Any]


def gpu(document: dict[str, Any]) -> dict[str, Any]:
    group: dict[str, Any] = document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    return group


def container(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = gpu(document)["template"]["spec"]["containers"][0]
    return found


def job(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"]
    return found


SEEN_BY_THE_SCHEMA: dict[str, Damage] = {
    "a typo": lambda it: job(it).update(entryPoint="x"),
    "a typo deep down": lambda it: container(it).update(imagePullpolicy="Always"),
    "a typo next to spec": lambda it: it.update(specs={}),
    "a text for a number": lambda it: gpu(it).update(maxReplicas="2"),
    "a number for a text": lambda it: gpu(it)["rayStartParams"].update({"num-cpus": 0}),
    "a number beyond 32 bits": lambda it: job(it).update(activeDeadlineSeconds=2**31),
    "no head": lambda it: job(it)["rayClusterSpec"].pop("headGroupSpec"),
    "no container name": lambda it: container(it).pop("name"),
    "a quantity that is none": lambda it: container(it).update(resources={"limits": {"memory": "26 GB"}}),
    "one port twice": lambda it: container(it).update(ports=CONTAINER["ports"] * 2),
    "an authentication that there is not": lambda it: job(it)["rayClusterSpec"]["authOptions"].update(mode="tokens"),
    "a rule in CEL": lambda it: job(it).update(managedBy="me"),
    "an api that nobody serves": lambda it: it.update(apiVersion="ray.io/v2"),
    "a name with capitals": lambda it: it["metadata"].update(name="Nightly"),
}
SEEN_BY_THE_RULES: dict[str, Damage] = {
    "a long name": lambda it: it["metadata"].update(name="n" * 48),
    "a name with a digit first": lambda it: it["metadata"].update(name="1-night"),
    "two clusters": lambda it: job(it).update(clusterSelector={"ray.io/cluster": "mine"}),
    "no cluster": lambda it: job(it).pop("rayClusterSpec"),
    "a mode that there is not": lambda it: job(it).update(submissionMode="Foo"),
    "tries below none": lambda it: job(it).update(backoffLimit=-1),
    "tries that are interactive": lambda it: job(it).update(backoffLimit=1, submissionMode="InteractiveMode"),
    "no time at all": lambda it: job(it).update(activeDeadlineSeconds=0),
    "kept and not shut down": lambda it: job(it).update(shutdownAfterJobFinishes=False, ttlSecondsAfterFinished=5),
    "a submitter of a sidecar": lambda it: job(it).update(submissionMode="SidecarMode", submitterPodTemplate={}),
    "an environment that is none": lambda it: job(it).update(runtimeEnvYAML="a: [b"),
    "more at least than at most": lambda it: gpu(it).update(minReplicas=3),
    "a token without a version": lambda it: job(it)["rayClusterSpec"].pop("rayVersion"),
    "a token for an old Ray": lambda it: job(it)["rayClusterSpec"].update(rayVersion="2.51.0"),
}
IN_A_SCHEDULE: dict[str, Damage] = {
    "in words": lambda it: it["spec"].update(schedule="every day"),
    "with a zone": lambda it: it["spec"].update(schedule="TZ=UTC 0 2 * * *"),
    "in a zone that does not exist": lambda it: it["spec"].update(timeZone="Europe/Bonn"),
}


def test_a_valid_object_passes() -> None:
    assert crds.faults(RAY_JOB) == []
    assert rules.faults(RAY_JOB) == []
    assert rules.faults(CRON_JOB) == []


@pytest.mark.parametrize("damage", SEEN_BY_THE_SCHEMA.values(), ids=SEEN_BY_THE_SCHEMA.keys())
def test_the_schema_refuses(damage: Damage) -> None:
    damaged = copy.deepcopy(RAY_JOB)
    damage(damaged)
    assert crds.faults(damaged)


@pytest.mark.parametrize("damage", SEEN_BY_THE_RULES.values(), ids=SEEN_BY_THE_RULES.keys())
def test_the_operators_rules_refuse_what_no_schema_sees(damage: Damage) -> None:
    damaged = copy.deepcopy(RAY_JOB)
    damage(damaged)
    assert rules.faults(damaged)


@pytest.mark.parametrize("damage", IN_A_SCHEDULE.values(), ids=IN_A_SCHEDULE.keys())
def test_a_schedule_that_kubernetes_would_refuse_is_refused(damage: Damage) -> None:
    damaged = copy.deepcopy(CRON_JOB)
    damage(damaged)
    assert rules.faults(damaged)


def test_an_object_of_an_api_server_may_have_nulls_and_lack_what_has_a_default() -> None:
    loose = copy.deepcopy(RAY_JOB)
    job(loose)["backoffLimit"] = None
    for name in ("minReplicas", "maxReplicas", "replicas"):
        gpu(loose).pop(name)
    assert crds.faults(loose) == []
