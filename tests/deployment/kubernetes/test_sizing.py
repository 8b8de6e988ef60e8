"""What a job says under ``ray:`` is what its cluster can hold, and what its command is told."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from retouch.deployment.kubernetes.sizing import share
from retouch.errors import ConfigError
from retouch.jobs.config import Job, parse_job

from tests.helpers.jobs_on_s3 import ALL


def job(kind: str, **ray: Any) -> Job:
    data = yaml.safe_load(ALL[kind])
    data["ray"] = ray
    return parse_job(data, "job.yaml")


def test_one_pod_of_one_gpu_where_nothing_is_said() -> None:
    part = share(job("edit"), None, None)
    assert (part.workers.gpus, part.workers.least, part.workers.most, part.workers.cpus) == (1, 0, 1, 0)
    assert part.settings == ("ray.actors=1", "ray.gpus_per_actor=1")
    assert part.decodes


def test_as_many_pods_as_the_actors_need() -> None:
    assert share(job("edit", actors=6), None, None).workers.most == 6
    halves = share(job("edit", actors=7, gpus_per_actor=0.5, resources={"editor": 1}), None, None)
    assert (halves.workers.gpus, halves.workers.most, halves.workers.resources) == (1, 4, {"editor": 2})
    assert halves.settings == ("ray.actors=7", "ray.gpus_per_actor=0.5")
    pairs = share(job("edit", actors=3, gpus_per_actor=2), None, None)
    assert (pairs.workers.gpus, pairs.workers.most) == (2, 3)


def test_the_command_line_goes_before_the_job() -> None:
    part = share(job("edit", actors=6), 4, None)
    assert part.workers.most == 4
    assert part.settings[0] == "ray.actors=4"
    ranged = share(job("edit", gpus_per_actor=0.5), None, (2, 8))
    assert (ranged.workers.least, ranged.workers.most) == (2, 8)
    assert ranged.settings[0] == "ray.actors=16"


def test_without_gpus_actors_get_cpus_and_leave_one_to_decode_and_write() -> None:
    part = share(job("edit"), 0, (1, 2))
    assert (part.workers.gpus, part.workers.most) == (0, 2)
    assert part.settings == ("ray.actors=6", "ray.gpus_per_actor=0")
    assert share(job("edit", actors=4, gpus_per_actor=0), None, None).workers.most == 2


def test_a_gpu_a_target_and_no_cpus_beside() -> None:
    part = share(job("finetune"), None, None)
    assert (part.workers.gpus, part.workers.most, part.decodes) == (1, 2, False)
    assert part.settings == ("ray.gpus_per_task=1",)
    assert share(job("finetune"), 1, None).workers.most == 1


def test_a_trainings_workers_have_their_cpus_beside_their_gpu() -> None:
    part = share(job("train", workers=4, cpus_per_worker=8), None, None)
    assert (part.workers.most, part.workers.cpus, part.decodes) == (4, 8, False)
    assert part.settings == ("ray.workers=4", "ray.gpus_per_worker=1")


def test_an_evaluation_has_a_command_of_its_own() -> None:
    assert share(job("evaluate"), None, None).command == "evaluate"
    assert share(job("train"), None, None).command == "run"


def test_too_few_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        share(job("edit", gpus_per_actor=2), 1, None)
    with pytest.raises(ConfigError, match="asks for 1 GPU"):
        share(job("edit", gpus_per_actor=1), 0, None)
