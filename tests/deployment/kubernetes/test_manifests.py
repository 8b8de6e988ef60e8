"""The objects of a job: where pods may run, which environment they have, how runs are kept apart."""

from __future__ import annotations

import json
from typing import Any

from retouch.deployment.kubernetes.manifests import (
    AUTOSCALING,
    CPU_WORKER,
    ENVIRONMENT,
    QUEUE_LABEL,
    SCHEDULE_ACCOUNT,
    WITHOUT_GPU,
    Cluster,
    Metadata,
    Workers,
    cron_job,
    kube_object,
    ray_cluster_spec,
    ray_job_spec,
)

CLUSTER = Cluster("retouch:1", "2.60.0", "retouch", Workers())
METADATA = Metadata("nightly", "batch", "gpus")
CRON = cron_job(METADATA, "retouch:1", "0 2 * * *", "Europe/Berlin", "date", 82800)
SPOT_KEYS = {"eks.amazonaws.com/capacityType", "karpenter.sh/capacity-type", "cloud.google.com/gke-spot"}


def spec(workers: Workers | None = None, **options: Any) -> dict[str, Any]:
    return ray_cluster_spec(Cluster("retouch:1", "2.60.0", "retouch", workers or Workers(max_pods=4), **options))


def groups(made: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in made["workerGroupSpecs"]}


def container(group: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = group["template"]["spec"]["containers"][0]
    return found


def environment(group: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(group)["env"]}


def terms(group: dict[str, Any]) -> list[dict[str, Any]]:
    affinity = group["template"]["spec"].get("affinity", {}).get("nodeAffinity", {})
    found: list[dict[str, Any]] = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get(
        "nodeSelectorTerms", []
    )
    return found


def test_tasks_go_to_the_cpu_group_and_editors_to_the_gpu_group_and_nothing_to_the_head() -> None:
    made = spec()
    assert made["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    found = groups(made)
    assert found["gpu"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "1"}
    assert "num-cpus" not in found["cpu"]["rayStartParams"]  # KubeRay passes the container's limit to Ray
    assert container(found["cpu"])["resources"]["limits"]["cpu"] == CPU_WORKER["cpu"]
    assert container(found["gpu"])["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in container(found["cpu"])["resources"]["limits"]


def test_gpus_are_spot_on_any_cloud_and_the_head_on_none() -> None:
    made = spec()
    gpu = terms(groups(made)["gpu"])
    assert {expression["key"] for term in gpu for expression in term["matchExpressions"]} == SPOT_KEYS
    assert [len(term["matchExpressions"]) for term in gpu] == [1, 1, 1]  # alternatives
    (head,) = terms(made["headGroupSpec"])
    assert {e["key"] for e in head["matchExpressions"] if e["operator"] == "NotIn"} == SPOT_KEYS
    assert terms(groups(spec(spot=False))["gpu"]) == []


def test_a_cluster_scales_from_no_gpu_and_one_cpu_pod_and_the_command_waits_for_nodes() -> None:
    made = spec()
    assert made["enableInTreeAutoscaling"]
    assert (groups(made)["gpu"]["minReplicas"], groups(made)["gpu"]["maxReplicas"]) == (0, 4)
    assert (groups(made)["cpu"]["minReplicas"], groups(made)["cpu"]["maxReplicas"]) == (1, 2)
    assert environment(made["headGroupSpec"]).items() >= AUTOSCALING.items()


def test_without_autoscaling_all_pods_exist_from_the_start() -> None:
    made = spec(autoscales=False)
    assert "enableInTreeAutoscaling" not in made
    counts = {name: (g["minReplicas"], g["replicas"], g["maxReplicas"]) for name, g in groups(made).items()}
    assert counts == {"gpu": (4, 4, 4), "cpu": (2, 2, 2)}
    assert not set(AUTOSCALING) & set(environment(made["headGroupSpec"]))


def test_every_ray_process_has_the_same_variables_and_gpus_are_hidden_where_none_is_used() -> None:
    made = spec()
    for group in (made["headGroupSpec"], *made["workerGroupSpecs"]):
        assert environment(group).items() >= ENVIRONMENT.items()
    assert environment(groups(made)["cpu"]).items() >= WITHOUT_GPU.items()
    assert environment(made["headGroupSpec"]).items() >= WITHOUT_GPU.items()
    assert not set(WITHOUT_GPU) & set(environment(groups(made)["gpu"]))


def test_a_cut_link_is_noticed_long_before_rays_default() -> None:
    assert int(ENVIRONMENT["RAY_grpc_client_keepalive_time_ms"]) <= 30_000
    assert int(ENVIRONMENT["RAY_grpc_client_keepalive_timeout_ms"]) <= 30_000


def test_every_process_uses_kuberays_token() -> None:
    assert spec()["authOptions"] == {"mode": "token"}


def test_the_autoscaler_that_kuberay_adds_has_no_more_rights_than_our_containers() -> None:
    made = spec()
    assert made["autoscalerOptions"]["securityContext"] == container(made["headGroupSpec"])["securityContext"]


def test_secrets_are_named_and_never_read() -> None:
    made = spec(secrets=("s3", "hub"))
    for group in (made["headGroupSpec"], *made["workerGroupSpecs"]):
        assert container(group)["envFrom"] == [{"secretRef": {"name": "s3"}}, {"secretRef": {"name": "hub"}}]


def test_the_job_is_a_file_of_the_head_alone() -> None:
    made = spec(job="nightly")
    assert "nightly" in json.dumps(made["headGroupSpec"])
    assert "nightly" not in json.dumps(made["workerGroupSpecs"])


def test_only_the_head_has_a_token_for_kubernetes() -> None:
    made = spec()
    assert "automountServiceAccountToken" not in made["headGroupSpec"]["template"]["spec"]
    assert not any(g["template"]["spec"]["automountServiceAccountToken"] for g in made["workerGroupSpecs"])


def test_a_worker_is_drained_before_its_pod_ends() -> None:
    for group in groups(spec()).values():
        (command,) = container(group)["lifecycle"]["preStop"]["exec"]["command"][2:]
        assert command.startswith("ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION")
        seconds = int(command.split("--deadline-remaining-seconds ")[1].split()[0])
        assert seconds < group["template"]["spec"]["terminationGracePeriodSeconds"]


def test_custom_resources_are_whole_numbers_in_quotes_as_rays_autoscaler_reads_them() -> None:
    text = groups(spec(Workers(resources={"editor": 1.5})))["gpu"]["rayStartParams"]["resources"]
    assert json.loads(text[1:-1].replace("\\", "")) == {"editor": 2}
    assert text[0] == text[-1] == "'"


def test_pods_of_two_gpus_are_twice_as_large() -> None:
    limits = container(groups(spec(Workers(gpus=2)))["gpu"])["resources"]["limits"]
    assert limits == {"cpu": "12", "memory": "52Gi", "nvidia.com/gpu": "2"}


def test_a_cluster_of_cpus_has_one_group_that_is_never_empty() -> None:
    made = spec(Workers(gpus=0, max_pods=3))
    assert list(groups(made)) == ["cpu"]
    assert groups(made)["cpu"]["minReplicas"] == 1
    assert "nvidia" not in json.dumps(groups(made)["cpu"]["template"]["spec"].get("tolerations", []))


def test_a_run_does_not_overlap_with_another_start_hours_late_or_take_for_ever() -> None:
    spec = CRON["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert 10 < spec["startingDeadlineSeconds"] <= 4 * 3600  # under 10 s Kubernetes may miss every one
    assert 82800 < spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 86400
    assert spec["successfulJobsHistoryLimit"] == spec["failedJobsHistoryLimit"] >= 1


def test_the_pod_knows_its_job_and_has_the_account_of_schedules() -> None:
    pod = CRON["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == SCHEDULE_ACCOUNT
    paths = {entry["name"]: entry["valueFrom"]["fieldRef"]["fieldPath"] for entry in pod["containers"][0]["env"]}
    assert paths == {
        "JOB_NAME": "metadata.labels['batch.kubernetes.io/job-name']",
        "JOB_UID": "metadata.labels['batch.kubernetes.io/controller-uid']",
        "NAMESPACE": "metadata.namespace",
    }


def test_a_pod_that_lost_its_node_is_replaced_and_a_failed_run_is_not_waited_for_again() -> None:
    job = CRON["spec"]["jobTemplate"]["spec"]
    actions = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    assert actions["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert 1 in actions["FailJob"]["onExitCodes"]["values"]
    assert 3 not in actions["FailJob"]["onExitCodes"]["values"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which a podFailurePolicy wants


def test_a_rayjob_resumes_in_new_clusters_and_leaves_none() -> None:
    spec = ray_job_spec(CLUSTER, "retouch run job.yaml", 82800, is_queued=False)
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"]
    assert 0 < spec["ttlSecondsAfterFinished"] <= 3600
    assert spec["activeDeadlineSeconds"] == 82800
    assert "entrypointNumGpus" not in spec  # the driver would take a GPU from the pool, and leave the head
    assert "entrypointNumCpus" not in spec


def test_a_queued_rayjob_may_wait_for_long() -> None:
    def waits(is_queued: bool) -> Any:
        return ray_job_spec(CLUSTER, "x", 1, is_queued=is_queued).get("preRunningDeadlineSeconds")

    assert waits(False)
    assert waits(True) is None


def test_the_queue_is_a_label_of_kinds_that_kueue_manages_only() -> None:
    for kind in ("RayJob", "RayCluster"):
        assert kube_object("ray.io/v1", kind, METADATA, spec={})["metadata"]["labels"][QUEUE_LABEL] == "gpus"
    assert QUEUE_LABEL not in CRON["metadata"]["labels"]
    assert CRON["metadata"]["namespace"] == "batch"
