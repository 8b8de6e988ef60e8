"""How many edit actors a run has on a cluster, and what each takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from retouch.errors import StopRun
from retouch.jobs.config import RaySpec

# Below an actor's whole CPU, so that Ray neither fuses decode into the edit actor (operators with equal resources
# fuse) nor lets actors that took every CPU starve the stages.
STAGE_CPUS: Final = 0.5
BLOCKS_PER_STAGE_TASK: Final = 16  # a stage's process takes seconds of a core to start, which fewer do not repay


@dataclass(frozen=True)
class PoolSize:
    """The pool of edit actors."""

    capacity: int  # actors that the cluster has room for now
    gpus: float  # per actor
    cpus: float  # per actor
    min_actors: int
    max_actors: int

    def stage_tasks(self, blocks: int) -> int:
        """Return how many decode or write tasks may run at once.

        More would take the CPUs before the actors start, which a short run waits for. Actors with GPUs get a task each,
        since a CPU costs little next to a GPU.
        """
        return max(math.ceil(blocks / BLOCKS_PER_STAGE_TASK), self.max_actors if self.gpus else 1)


def requested(spec: RaySpec) -> dict[str, float]:
    """Return what an actor takes, as far as the job says so."""
    if spec.gpus_per_actor == "auto":
        return dict(spec.resources)
    return {"GPU": spec.gpus_per_actor, "CPU": 0.0 if spec.gpus_per_actor else 1.0, **spec.resources}


def gpus_per_actor(spec: RaySpec, cluster_gpus: float) -> float:
    """Return the GPUs of an actor on a cluster with this many."""
    if spec.gpus_per_actor == "auto":
        return 1.0 if cluster_gpus else 0.0
    return spec.gpus_per_actor


def capacity(spec: RaySpec, cluster: Mapping[str, float]) -> PoolSize:
    """Return the pool that fits into a cluster, whatever the number of blocks.

    Args:
        spec: the job's ``ray`` settings.
        cluster: its resources by name.

    Raises:
        StopRun: not one actor fits.
    """
    cluster_gpus = cluster.get("GPU", 0.0)
    gpus = gpus_per_actor(spec, cluster_gpus)
    if gpus > cluster_gpus:
        raise StopRun(f"an actor needs {gpus:g} GPU and the cluster has {cluster_gpus:g}; set ray.gpus_per_actor")
    # With GPUs an explicit 0: by default Ray reserves a CPU for such an actor, too, which deadlocks without a warning.
    cpus = 0.0 if gpus else 1.0
    most = math.floor(cluster_gpus / gpus) if gpus else max(1, math.floor(cluster.get("CPU", 1.0) - 2 * STAGE_CPUS))
    for name, amount in spec.resources.items():
        most = min(most, math.floor(cluster.get(name, 0.0) / amount))
        if not most:
            raise StopRun(
                f"an actor needs {amount:g} of {name!r} and the cluster has {cluster.get(name, 0.0):g}; "
                "set ray.resources"
            )
    return PoolSize(most, gpus, cpus, most, most)


def size_pool(
    spec: RaySpec, cluster: Mapping[str, float], blocks: int, *, may_grow: bool, max_actors: int | None = None
) -> PoolSize:
    """Return the pool for a run.

    Args:
        spec: the job's ``ray`` settings.
        cluster: its resources by name.
        blocks: that are left; each keeps at most one actor busy.
        may_grow: whether nodes may join the cluster.
        max_actors: whatever the job and the cluster allow; None for no limit.

    Raises:
        StopRun: not one actor fits.
    """
    fits = capacity(spec, cluster)
    if spec.actors == "auto":
        least = min(fits.capacity, blocks)
        most = blocks if may_grow else least
    else:
        most = min(spec.actors, blocks)
        # Actors without room wait for it, and the cluster's autoscaler sees them. On CPUs alone, actors that took every
        # one would starve the stages.
        least = most if fits.gpus or spec.resources else min(most, fits.capacity)
    limit = max_actors or most
    return PoolSize(fits.capacity, fits.gpus, fits.cpus, min(least, limit), min(most, limit))
