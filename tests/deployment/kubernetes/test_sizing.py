"""A job's ``ray:`` section decides the size of its cluster and the settings of its command."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from retouch.deployment.kubernetes.sizing import size_cluster
from retouch.errors import ConfigError
from retouch.jobs.config import Job, parse_job

from tests.helpers.jobs_on_s3 import ALL


def job(kind: str, **ray: Any) -> Job:
    data = yaml.safe_load(ALL[kind])
    data["ray"] = ray
    return parse_job(data, "job.yaml")


def test_one_pod_with_one_gpu_by_default() -> None:
    part = size_cluster(job("edit"), None, None)
    assert (part.workers.gpus, part.workers.min_pods, part.workers.max_pods, part.workers.cpus) == (1, 0, 1, 0)
    assert part.settings == ("ray.actors=1", "ray.gpus_per_actor=1")
    assert part.has_decode_tasks


def test_as_many_pods_as_the_actors_need() -> None:
    assert size_cluster(job("edit", actors=6), None, None).workers.max_pods == 6
    halves = size_cluster(job("edit", actors=7, gpus_per_actor=0.5, resources={"editor": 1}), None, None)
    assert (halves.workers.gpus, halves.workers.max_pods, halves.workers.resources) == (1, 4, {"editor": 2})
    assert halves.settings == ("ray.actors=7", "ray.gpus_per_actor=0.5")
    pairs = size_cluster(job("edit", actors=3, gpus_per_actor=2), None, None)
    assert (pairs.workers.gpus, pairs.workers.max_pods) == (2, 3)


def test_the_command_line_overrides_the_job() -> None:
    part = size_cluster(job("edit", actors=6), 4, None)
    assert part.workers.max_pods == 4
    assert part.settings[0] == "ray.actors=4"
    ranged = size_cluster(job("edit", gpus_per_actor=0.5), None, (2, 8))
    assert (ranged.workers.min_pods, ranged.workers.max_pods) == (2, 8)
    assert ranged.settings[0] == "ray.actors=16"


def test_without_gpus_actors_get_cpus_and_leave_one_to_decode_and_write() -> None:
    part = size_cluster(job("edit"), 0, (1, 2))
    assert (part.workers.gpus, part.workers.max_pods) == (0, 2)
    assert part.settings == ("ray.actors=6", "ray.gpus_per_actor=0")
    assert size_cluster(job("edit", actors=4, gpus_per_actor=0), None, None).workers.max_pods == 2


def test_one_gpu_per_target_and_no_cpus() -> None:
    part = size_cluster(job("finetune"), None, None)
    assert (part.workers.gpus, part.workers.max_pods, part.has_decode_tasks) == (1, 2, False)
    assert part.settings == ("ray.gpus_per_task=1",)
    assert size_cluster(job("finetune"), 1, None).workers.max_pods == 1


def test_the_workers_of_a_training_have_cpus_next_to_their_gpu() -> None:
    part = size_cluster(job("train", workers=4, cpus_per_worker=8), None, None)
    assert (part.workers.max_pods, part.workers.cpus, part.has_decode_tasks) == (4, 8, False)
    assert part.settings == ("ray.workers=4", "ray.gpus_per_worker=1")


def test_an_evaluation_has_a_command_of_its_own() -> None:
    assert size_cluster(job("evaluate"), None, None).command == "evaluate"
    assert size_cluster(job("train"), None, None).command == "run"


def test_too_few_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        size_cluster(job("edit", gpus_per_actor=2), 1, None)
    with pytest.raises(ConfigError, match="asks for 1 GPU"):
        size_cluster(job("edit", gpus_per_actor=1), 0, None)
