"""How many edit actors a run gets, by what the job asks for and what the cluster has."""

from __future__ import annotations

from typing import Any

import pytest
from retouch.errors import StopRun
from retouch.execution.executors.ray.sizing import PoolSize, capacity, size_pool
from retouch.jobs.config import RaySpec


@pytest.mark.parametrize(
    ("spec", "cluster", "wanted"),
    [
        ({}, {"CPU": 8, "GPU": 4}, (4, 1.0, 0.0)),  # an actor per GPU, and no CPU with it
        ({"gpus_per_actor": 0.5}, {"CPU": 8, "GPU": 2}, (4, 0.5, 0.0)),
        ({}, {"CPU": 4}, (3, 0.0, 1.0)),  # a CPU is left for decode and write
        ({}, {"CPU": 1}, (1, 0.0, 1.0)),
        ({"gpus_per_actor": 0}, {"CPU": 4, "GPU": 2}, (3, 0.0, 1.0)),
        ({"resources": {"edit": 1}}, {"CPU": 9, "edit": 2}, (2, 0.0, 1.0)),
    ],
)
def test_the_capacity_follows_what_the_cluster_has(
    spec: dict[str, Any], cluster: dict[str, float], wanted: tuple[int, float, float]
) -> None:
    found = capacity(RaySpec(**spec), cluster)
    assert (found.capacity, found.gpus, found.cpus) == wanted


@pytest.mark.parametrize(
    ("spec", "message"), [({"gpus_per_actor": 1}, "needs 1 GPU"), ({"resources": {"edit": 1}}, "needs 1 of 'edit'")]
)
def test_a_pool_that_can_never_be_placed_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(StopRun, match=message):
        capacity(RaySpec(**spec), {"CPU": 4})


@pytest.mark.parametrize(
    ("spec", "cluster", "may_grow", "wanted"),
    [
        ({}, {"GPU": 2}, True, (2, 20)),  # all that there are, and those that join
        ({}, {"GPU": 2}, False, (2, 2)),
        ({}, {"GPU": 50}, True, (20, 20)),  # more than blocks would be idle
        ({"actors": 4}, {"GPU": 1}, True, (4, 4)),  # three wait for a node
        ({"actors": 4, "resources": {"edit": 1}}, {"CPU": 9, "edit": 1}, True, (4, 4)),
        ({"actors": 4}, {"CPU": 2}, True, (1, 4)),  # a CPU is left for decode and write
        ({"actors": 1}, {"CPU": 4}, True, (1, 1)),
    ],
)
def test_the_pool_grows_as_far_as_the_job_allows(
    spec: dict[str, Any], cluster: dict[str, float], may_grow: bool, wanted: tuple[int, int]
) -> None:
    pool = size_pool(RaySpec(**spec), cluster, 20, may_grow=may_grow)
    assert (pool.min_actors, pool.max_actors) == wanted


def test_a_limit_of_the_caller_bounds_the_pool() -> None:
    pool = size_pool(RaySpec(), {"GPU": 8}, 20, may_grow=True, max_actors=3)
    assert (pool.min_actors, pool.max_actors) == (3, 3)


def test_few_blocks_start_few_processes_for_their_stages() -> None:
    on_cpus, on_gpus = PoolSize(2, 0.0, 1.0, 2, 2), PoolSize(8, 1.0, 0.0, 8, 8)
    assert [on_cpus.stage_tasks(blocks) for blocks in (1, 16, 17, 1000)] == [1, 1, 2, 63]
    assert [on_gpus.stage_tasks(blocks) for blocks in (8, 64, 1000)] == [8, 8, 63]
