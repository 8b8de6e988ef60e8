"""A night's objects: what keeps two of them apart, and how long anything may take."""

from __future__ import annotations

from typing import Any

from retouch.deployment.kubernetes.kube_jobs import (
    NIGHT_ACCOUNT,
    QUEUE_LABEL,
    Origin,
    cron_job,
    kube_object,
    ray_job_spec,
)
from retouch.deployment.kubernetes.pods import Cluster, Workers

CLUSTER = Cluster("retouch:1", "2.60.0", "retouch", Workers())
ORIGIN = Origin("nightly", "batch", "gpus")
CRON = cron_job(ORIGIN, "retouch:1", "0 2 * * *", "Europe/Berlin", "date", 82800)


def test_no_night_starts_while_another_runs_nor_hours_late_nor_for_ever() -> None:
    spec = CRON["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert 10 < spec["startingDeadlineSeconds"] <= 4 * 3600  # under 10 s Kubernetes may miss every one
    assert 82800 < spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 86400
    assert spec["successfulJobsHistoryLimit"] == spec["failedJobsHistoryLimit"] >= 1


def test_the_pod_knows_whose_it_is_and_has_one_right() -> None:
    pod = CRON["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == NIGHT_ACCOUNT
    paths = {entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in pod["containers"][0]["env"]}
    assert paths == {
        "JOB_NAME": "metadata.labels['batch.kubernetes.io/job-name']",
        "JOB_UID": "metadata.labels['batch.kubernetes.io/controller-uid']",
        "NAMESPACE": "metadata.namespace",
    }


def test_a_pod_that_lost_its_node_is_made_again_and_a_failed_run_is_not_waited_for_again() -> None:
    job = CRON["spec"]["jobTemplate"]["spec"]
    actions = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    assert actions["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert 1 in actions["FailJob"]["onExitCodes"]["values"]
    assert 3 not in actions["FailJob"]["onExitCodes"]["values"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy wants


def test_a_rayjob_goes_on_in_new_clusters_and_leaves_none() -> None:
    spec = ray_job_spec(CLUSTER, "retouch run job.yaml", 82800, is_queued=False)
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"]
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
    assert spec["activeDeadlineSeconds"] == 82800
    assert "entrypointNumGpus" not in spec  # the driver would take a GPU from the pool, and leave the head
    assert "entrypointNumCpus" not in spec


def test_waiting_in_a_queue_is_no_fault() -> None:
    def waits(is_queued: bool) -> Any:
        return ray_job_spec(CLUSTER, "x", 1, is_queued=is_queued).get("preRunningDeadlineSeconds")

    assert waits(False)
    assert waits(True) is None


def test_the_queue_is_a_label_of_what_kueue_manages_and_of_nothing_else() -> None:
    for kind in ("RayJob", "RayCluster"):
        assert kube_object("ray.io/v1", kind, ORIGIN, spec={})["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    assert QUEUE_LABEL not in CRON["metadata"]["labels"]
    assert CRON["metadata"]["namespace"] == "batch"
