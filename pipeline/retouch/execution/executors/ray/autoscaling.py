"""Request nodes from a cluster with an autoscaler, and wait for them.

Ray Data requests no nodes for actors with GPUs (Ray's issue 59144), so this module requests all that a run can use
while the command runs. ``RETOUCH_WAIT_FOR_NODES`` is the time in seconds that the first node may take; without it the
cluster is taken as it is when the command starts.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from retouch.errors import ConfigError, Interrupted
from retouch.execution.executors.ray.cluster import total_resources
from retouch.execution.executors.ray.sizing import gpus_per_actor
from retouch.jobs.config import RaySpec

VARIABLE: Final = "RETOUCH_WAIT_FOR_NODES"
INTERVAL: Final = 2.0  # seconds between two checks


@contextlib.contextmanager
def resources(each: Mapping[str, float], count: int, at_least: int = 1) -> Iterator[dict[str, float]]:
    """Request resources while the block runs. Yield what the cluster has, by resource.

    Args:
        each: what one actor, task or worker takes; zeros are left out.
        count: how many of them the cluster is asked to hold.
        at_least: how many it must hold before the block starts, within ``RETOUCH_WAIT_FOR_NODES`` seconds.

    Raises:
        ConfigError: the variable is not a number.
    """
    import ray

    seconds = _seconds()
    wanted = {name: amount for name, amount in each.items() if amount}
    if not seconds or not wanted:
        yield ray.cluster_resources()
        return
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[dict(wanted) for _ in range(count)])
    try:
        until = time.monotonic() + seconds
        while not _holds(available := ray.cluster_resources(), wanted, at_least) and time.monotonic() < until:
            time.sleep(INTERVAL)
        yield available
    finally:
        with contextlib.suppress(Exception):  # the head may be gone by now
            request_resources(bundles=[])


def wait_for_node(spec: RaySpec, on_waiting: Callable[[str], None]) -> None:
    """Return when some node can hold an actor. Until then the cluster's autoscaler sees a pending placement group.

    Args:
        spec: the job's ``ray`` settings.
        on_waiting: called with one line if the run has to wait.

    Raises:
        Interrupted: no such node joined within ``ray.stall_seconds``.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    gpus = gpus_per_actor(spec, total_resources().get("GPU", 0.0))
    needed = {name: amount for name, amount in {"GPU": gpus, **spec.resources}.items() if amount}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0.0) >= amount for name, amount in needed.items()) for node in nodes):
        return
    text = " and ".join(f"{amount:g} {name}" for name, amount in needed.items())
    on_waiting(f"waiting up to {spec.stall_seconds} s for a node with {text}: none of {len(nodes)} nodes has it")
    group = placement_group([needed])
    try:
        if not group.wait(spec.stall_seconds):
            raise Interrupted(
                f"no node with {text} joined within {spec.stall_seconds} s (ray.stall_seconds); start one, or change "
                "ray.gpus_per_actor or ray.resources, and run the same command again to resume"
            )
    finally:
        remove_placement_group(group)


def _holds(available: Mapping[str, float], wanted: Mapping[str, float], count: int) -> bool:
    return all(available.get(name, 0.0) >= amount * count for name, amount in wanted.items())


def _seconds() -> float:
    text = os.environ.get(VARIABLE) or "0"
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{VARIABLE} is {text!r}; give a number of seconds") from None
