"""Carries out a plan with Ray Data: decode in CPU tasks, edit in a pool of actors, write in CPU tasks.

Knows Ray, and nothing of images or networks. Trap numbers are those of Ray 2.60, found by running it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import downloads
from pipeline.config import RaySpec
from pipeline.engine import Engine, best_device, edit_block
from pipeline.errors import Interrupted, StopRun
from pipeline.executors import anywhere
from pipeline.executors.ray_cluster import cluster, of_ours
from pipeline.executors.ray_metrics import ARRIVED, Reporter, reporting
from pipeline.executors.ray_patience import set_limit
from pipeline.plan import Plan
from pipeline.specs import DecodeSpec, EngineSpec, WriteSpec
from pipeline.stages import decode_block, write_block

# Below an actor's whole CPU, so that Ray neither fuses decode into the editor's actor (operators with equal resources
# fuse) nor lets actors that took every CPU starve the reads.
STAGE_CPUS = 0.5
STAGE_MEMORY = 512 << 20  # bytes of heap a decode or write task is accounted for; the heap is not budgeted by default


@dataclass(frozen=True)
class Resources:
    """What the pool takes."""

    actors: int
    gpus: float  # an actor
    cpus: float  # an actor


class EditActor:
    """One loaded engine; Ray keeps it for the whole run."""

    def __init__(self, spec: EngineSpec, gpus: float, told: Reporter) -> None:
        self.told, self.began = told, time.monotonic()
        with downloads.watched(told.beat):
            self.engine = Engine(spec, best_device() if gpus else "cpu")

    def __call__(self, table: pa.Table) -> pa.Table:
        """A block of samples to a block of answers."""
        with downloads.watched(self.told.beat):
            answers = edit_block(self.engine, table)
        self.told.report(life=time.monotonic() - self.began)
        return answers


def execute(plan: Plan, address: str | None = None, summed: dict[str, float] | None = None) -> Iterator[pa.Table]:
    """Yield each block's results rows after they are committed.

    Args:
        plan: what is to be done.
        address: of a running cluster (``auto``, ``ray://host:10001``); None takes ``RAY_ADDRESS``, or starts Ray here.
        summed: gets the figures of all workers in the end.

    Raises:
        StopRun: the cluster cannot hold the pool.
        Interrupted: Ray gave up on the run; what is committed stays.
    """
    asked = plan.job.ray.actors
    with cluster(address, None if asked == "auto" else asked, spare_cpus=2 * STAGE_CPUS):
        import ray
        from ray.data.exceptions import ExecutionTimeoutError

        pool = resources(plan.job.ray, ray.cluster_resources())
        try:
            with reporting(plan.job.name, summed) as told:
                yield from _stream(anywhere.editing(plan), pool, told)
        except ExecutionTimeoutError as error:
            raise Interrupted(
                f"nothing moved for {plan.job.ray.stall_seconds} s (ray.stall_seconds), and no weights came: no GPU, a "
                "pass or a load that takes longer, or a hang; the same command goes on from here"
            ) from error
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise of_ours(error) from error


def resources(spec: RaySpec, cluster: dict[str, float]) -> Resources:
    """How many actors, and what each takes, from what the cluster has.

    Raises:
        StopRun: the pool asked for can never be placed.
    """
    gpus = cluster.get("GPU", 0.0)
    each = (1.0 if gpus else 0.0) if spec.gpus_per_actor == "auto" else spec.gpus_per_actor
    if each > gpus:
        raise StopRun(f"an actor wants {each:g} GPU and the cluster has {gpus:g}; set ray.gpus_per_actor")
    cpus = 0.0 if each else 1.0  # an operator with GPUs reserves a CPU too unless told otherwise: a silent deadlock
    most = math.floor(gpus / each) if each else max(1, math.floor(cluster.get("CPU", 1.0) - 2 * STAGE_CPUS))
    for name, amount in spec.resources.items():
        most = min(most, math.floor(cluster.get(name, 0.0) / amount))
        if not most:
            raise StopRun(f"an actor wants {amount:g} of {name!r} and the cluster has {cluster.get(name, 0.0):g}")
    return Resources(most if spec.actors == "auto" else spec.actors, each, cpus)


def _stream(plan: Plan, pool: Resources, told: Reporter) -> Iterator[pa.Table]:
    import ray.data

    blocks = list(plan.blocks(pool.actors))
    actors = min(pool.actors, len(blocks))
    _configure(plan.job.ray.stall_seconds, told)
    editing: dict[str, Any] = {"num_gpus": pool.gpus} if pool.gpus else {}
    if plan.job.ray.resources:
        editing["resources"] = dict(plan.job.ray.resources)
    on_cpus: dict[str, Any] = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "num_cpus": STAGE_CPUS,
        "memory": STAGE_MEMORY,
    }
    # from_arrow makes one block a table; read_parquet would pack a small manifest into a single one.
    dataset = (
        ray.data.from_arrow(blocks)
        .map_batches(_decode, fn_kwargs={"spec": plan.decode, "told": told}, **on_cpus)
        .map_batches(
            EditActor,
            fn_constructor_args=(plan.engine, pool.gpus, told),
            batch_size=max(block.num_rows for block in blocks),
            batch_format="pyarrow",
            num_cpus=pool.cpus,
            compute=ray.data.ActorPoolStrategy(
                size=actors,
                max_tasks_in_flight_per_actor=2,
                max_concurrent_calls_per_actor=2,  # one call at a time, but the next one's batch is made meanwhile
            ),
            **editing,
        )
        .map_batches(_write, fn_kwargs={"spec": plan.write, "told": told}, **on_cpus)
    )
    for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        if rows.num_rows:
            yield rows


def _decode(table: pa.Table, spec: DecodeSpec, told: Reporter) -> pa.Table:
    samples = decode_block(table, spec)
    told.report()
    return samples


def _write(table: pa.Table, spec: WriteSpec, told: Reporter) -> pa.Table:
    if not table.num_rows:  # an empty block has no columns
        return pa.table({"key": pa.array([], pa.string())})
    rows = write_block(table, spec).select(["key", "status", "error_type", "error_message", "edit_seconds"])
    told.report(arrived=ARRIVED)
    return rows


def _configure(stall_seconds: int, told: Reporter) -> None:
    from ray.data import DataContext

    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":  # Ray's own files keep everything
            handler.setLevel(logging.CRITICAL)  # errors are raised, and said once

    context = DataContext.get_current()
    context.enable_progress_bars = False  # the driver counts committed rows, which Ray's bars do not know
    set_limit(context, stall_seconds, told)
    context.max_errored_blocks = 0  # more would drop whole blocks and say nothing
