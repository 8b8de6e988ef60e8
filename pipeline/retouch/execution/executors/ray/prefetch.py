"""Fetch a run's weights on each node before the run starts.

Ray Data fails a run in which no block finishes for ``ray.stall_seconds``. On new nodes every actor may load at once,
with gigabytes to fetch; so that this is not taken for a stall, the nodes fetch the weights first. A node that joins
later fetches them when its actor loads, while others edit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from retouch.errors import Interrupted
from retouch.execution.executors.ray.metrics import WorkerReporter
from retouch.execution.executors.ray.sizing import PoolSize
from retouch.execution.specs import EngineSpec
from retouch.jobs.config import RaySpec, Weights
from retouch.models import weights
from retouch.storage import downloads

INTERVAL: Final = 5.0  # seconds between two checks of the progress, or a quarter of the limit


def fetch_weights(spec: EngineSpec, pool: PoolSize, ray_spec: RaySpec, reporter: WorkerReporter) -> None:
    """Fetch the weights of editor and metrics on each node that can hold an actor; nothing if they are not remote.

    Args:
        spec: of the engine.
        pool: of edit actors.
        ray_spec: of the job: what an actor needs, and the limit without progress.
        reporter: gets the telemetry of the nodes.

    Raises:
        StopRun: weights that are wrong.
        Interrupted: nothing was fetched for ``ray.stall_seconds``.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = [source for source in _sources(spec) if any("://" in address for address in _addresses(source))]
    if not remote:
        return
    needed = {"GPU": pool.gpus, **ray_spec.resources}
    fetch = ray.remote(num_cpus=0)(_fetch)
    left = [
        fetch.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)).remote(
            remote, reporter
        )
        for node in ray.nodes()
        if node["Alive"] and all(node["Resources"].get(name, 0.0) >= amount for name, amount in needed.items())
    ]
    fetched, since = 0.0, time.monotonic()
    while left:
        done, left = ray.wait(left, timeout=min(INTERVAL, ray_spec.stall_seconds / 4))
        ray.get(done)
        now = reporter.fetched_bytes()
        if done or now > fetched:
            fetched, since = now, time.monotonic()
        elif time.monotonic() - since > ray_spec.stall_seconds:
            raise Interrupted(
                f"no weights arrived for {ray_spec.stall_seconds} s (ray.stall_seconds); check that the nodes reach "
                "their addresses, and run the same command again to resume"
            )


def _sources(spec: EngineSpec) -> Iterator[Weights]:
    yield spec.weights
    yield from (metric.weights for metric in spec.metrics if metric.weights is not None)


def _addresses(source: Weights) -> Iterator[str]:
    for entry in [source] if isinstance(source, str) else source.values():
        yield from [entry] if isinstance(entry, str) else entry


def _fetch(sources: list[Weights], reporter: WorkerReporter) -> None:
    with downloads.watched(reporter.report_download):
        for source in sources:
            weights.resolve(source)
    reporter.report()
