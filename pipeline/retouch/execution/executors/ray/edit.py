"""Carries out a plan with Ray Data: decode in CPU tasks, edit in a pool of actors, write in CPU tasks.

Knows Ray, and nothing of images or networks. Trap numbers are those of Ray 2.60, found by running it.
"""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from retouch.errors import Interrupted, StopRun
from retouch.execution import traces
from retouch.execution.engine import Engine, edit_block
from retouch.execution.executors import absolute_paths
from retouch.execution.executors.ray import autoscaling
from retouch.execution.executors.ray.cluster import cluster, of_ours
from retouch.execution.executors.ray.metrics import ARRIVED, Reporter, reporting
from retouch.execution.executors.ray.stall_timeout import set_limit
from retouch.execution.plan import Plan
from retouch.execution.specs import EngineSpec, WriteSpec
from retouch.execution.stages import decode_block, write_block
from retouch.execution.traces import Crew, Listener, Worker
from retouch.jobs.config import RaySpec
from retouch.manifests.decode import DecodeSpec
from retouch.models import devices
from retouch.storage import downloads

# Below an actor's whole CPU, so that Ray neither fuses decode into the editor's actor (operators with equal resources
# fuse) nor lets actors that took every CPU starve the reads.
STAGE_CPUS = 0.5
FEW_CORES: Final = 4  # on which editors that load side by side, one a core, hold one another up, and Ray them all
BLOCKS_A_WORKER: Final = 16  # starting a process for a stage takes seconds of a core, which fewer do not repay
STAGE_MEMORY = 512 << 20  # bytes of heap a decode or write task is accounted for; the heap is not budgeted by default
# Blocks given to an actor over those it can hold, from which a pool that may grow does, where there is room: at half,
# as many as there are may start at once. Nothing is shed for being idle, since what is loaded took long to load.
GROWS_FROM: Final = 0.5
SHEDS_BELOW: Final = 0.0


@dataclass(frozen=True)
class Resources:
    """What the pool takes."""

    actors: int  # that have a place now
    gpus: float  # an actor
    cpus: float  # an actor


class EditActor:
    """One loaded engine; Ray keeps it for the whole run."""

    def __init__(self, spec: EngineSpec, gpus: float, told: Reporter) -> None:
        import ray

        self.told, self.began = told, time.perf_counter()
        device = devices.best_device() if gpus else devices.CPU
        with downloads.watched(told.beat):
            self.engine = Engine(spec, device)
        replaced = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self.worker = Worker(devices.name_of(device), time.perf_counter() - self.began, replaced=replaced)

    def __call__(self, table: pa.Table) -> pa.Table:
        """A block of samples to a block of answers."""
        began = time.time()
        with downloads.watched(self.told.beat):
            edited = traces.timed("edit", table, lambda block: edit_block(self.engine, block))
        self.told.report(life=time.perf_counter() - self.began)
        return traces.edited_by(edited, self.worker.facts(len(self.engine.losses), began))


def execute(plan: Plan, address: str | None = None, heard: Listener | None = None) -> Iterator[pa.Table]:
    """Yield what ``traces.told`` has of each block's rows after they are committed.

    Args:
        plan: what is to be done.
        address: of a running cluster (``auto``, ``ray://host:10001``); None takes ``RAY_ADDRESS``, or starts Ray here.
        heard: told what a cluster is waited for, who will work as soon as the cluster is there, and in the end the
            figures of all workers.

    Raises:
        StopRun: the cluster, started here, cannot hold the pool.
        Interrupted: no node that can came in time, or Ray gave up on the run; what is committed stays.
    """
    spec, heard = plan.job.ray, heard or Listener()
    workers = None if spec.actors == "auto" else spec.actors
    with cluster(address, workers, spare_cpus=2 * STAGE_CPUS, meanwhile="pandas") as may_grow:  # which ray.data imports
        import ray
        from ray.data.exceptions import ExecutionTimeoutError

        try:
            with autoscaling.resources(_taken(spec), 1 if spec.actors == "auto" else spec.actors):
                if may_grow:
                    wait_for_a_place(spec, heard.say)
                pool = resources(spec, totals())
                with reporting(plan.job.name, heard.figures) as told:
                    yield from _stream(absolute_paths.editing(plan), pool, heard, told, may_grow=may_grow)
        except ExecutionTimeoutError as error:
            raise Interrupted(
                f"nothing moved for {spec.stall_seconds} s (ray.stall_seconds), and no weights came: no GPU, a "
                "pass or a load that takes longer, or a hang; the same command goes on from here"
            ) from error
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise of_ours(error) from error


def _taken(spec: RaySpec) -> dict[str, float]:
    """What an actor takes, as far as the job says it."""
    if spec.gpus_per_actor == "auto":
        return dict(spec.resources)
    return {"GPU": spec.gpus_per_actor, "CPU": 0.0 if spec.gpus_per_actor else 1.0, **spec.resources}


def resources(spec: RaySpec, cluster: dict[str, float]) -> Resources:
    """How many actors have a place in what the cluster has, and what each takes.

    Raises:
        StopRun: none has.
    """
    gpus = cluster.get("GPU", 0.0)
    each = gpus_of_an_actor(spec, gpus)
    if each > gpus:
        raise StopRun(f"an actor wants {each:g} GPU and the cluster has {gpus:g}; set ray.gpus_per_actor")
    cpus = 0.0 if each else 1.0  # an operator with GPUs reserves a CPU too unless told otherwise: a silent deadlock
    most = math.floor(gpus / each) if each else max(1, math.floor(cluster.get("CPU", 1.0) - 2 * STAGE_CPUS))
    for name, amount in spec.resources.items():
        most = min(most, math.floor(cluster.get(name, 0.0) / amount))
        if not most:
            raise StopRun(f"an actor wants {amount:g} of {name!r} and the cluster has {cluster.get(name, 0.0):g}")
    return Resources(most, each, cpus)


def bounds(spec: RaySpec, pool: Resources, blocks: int, *, may_grow: bool) -> tuple[int, int]:
    """How many actors the pool has at least and at most.

    Args:
        spec: the job's wishes.
        pool: what has a place now.
        blocks: that are left to do; each keeps one actor busy at most.
        may_grow: nodes may join the cluster.
    """
    if spec.actors == "auto":
        return min(pool.actors, blocks), blocks if may_grow else min(pool.actors, blocks)
    asked = min(spec.actors, blocks)
    if pool.gpus or spec.resources:
        return asked, asked  # those without a place wait for one, which an autoscaler sees
    return min(asked, pool.actors), asked  # actors that took every CPU would starve the reads


def to_begin_with(spec: RaySpec, pool: Resources, least: int, *, may_grow: bool) -> int:
    """How many editors load at once; the others of the pool load while those edit.

    One, where the machine has few cores and nothing else to edit with: its first image comes sooner, for which a core
    is idle for some seconds.

    Args:
        spec: the job's wishes; a number of actors is one.
        pool: what an actor takes.
        least: editors that the pool has at least.
        may_grow: the cluster is not of this machine alone.
    """
    of_few = not may_grow and not pool.gpus and (os.cpu_count() or 1) <= FEW_CORES
    return 1 if of_few and spec.actors == "auto" else least


def at_once(blocks: int, pool: Resources, actors: int) -> int:
    """How many tasks of a stage run at once at most.

    Until the editors hold their CPUs the stages would take all of them, and what a short run waits for is its editors.

    Args:
        blocks: that are left to do.
        pool: what an actor takes.
        actors: of the pool at most. Those with GPUs are fed by as many tasks: a CPU is cheap beside them.
    """
    return max(math.ceil(blocks / BLOCKS_A_WORKER), actors if pool.gpus else 1)


def gpus_of_an_actor(spec: RaySpec, there: float) -> float:
    """GPUs that an actor takes of a cluster that has so many."""
    if spec.gpus_per_actor == "auto":
        return 1.0 if there else 0.0
    return spec.gpus_per_actor


def wait_for_a_place(spec: RaySpec, say: Callable[[str], None]) -> None:
    """Return when some node can hold an actor. Until then the cluster's autoscaler sees that one is wanted.

    Raises:
        Interrupted: there was none for the job's ``stall_seconds``.
    """
    import ray
    from ray.util import placement_group, remove_placement_group

    gpus = gpus_of_an_actor(spec, totals().get("GPU", 0.0))
    taken = {name: amount for name, amount in {"GPU": gpus, **spec.resources}.items() if amount}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0.0) >= amount for name, amount in taken.items()) for node in nodes):
        return
    wanted = " and ".join(f"{amount:g} {name}" for name, amount in taken.items())
    say(f"waiting up to {spec.stall_seconds} s for a node with {wanted}: of {len(nodes)} there, none has it")
    group = placement_group([taken])
    try:
        if not group.wait(spec.stall_seconds):
            raise Interrupted(
                f"no node with {wanted} joined in {spec.stall_seconds} s (ray.stall_seconds); "
                "start one, or change ray.gpus_per_actor or ray.resources; the same command goes on"
            )
    finally:
        remove_placement_group(group)


def totals() -> dict[str, float]:
    """What the nodes that are alive have together. Ray's own sum may lag behind a node that has just joined."""
    import ray

    summed: Counter[str] = Counter()
    for node in ray.nodes():
        if node["Alive"]:
            summed.update(node["Resources"])
    return dict(summed)


def _stream(plan: Plan, pool: Resources, heard: Listener, told: Reporter, *, may_grow: bool) -> Iterator[pa.Table]:
    import ray.data

    spec = plan.job.ray
    blocks = list(plan.blocks(pool.actors if spec.actors == "auto" else spec.actors))
    least, most = bounds(spec, pool, len(blocks), may_grow=may_grow)
    if plan.most_actors:
        least, most = min(least, plan.most_actors), min(most, plan.most_actors)
    heard.met(Crew(least, pool.gpus or pool.cpus, _device(plan, pool), pool.actors))
    editing: dict[str, Any] = {"num_gpus": pool.gpus} if pool.gpus else {}
    if spec.resources:
        editing["resources"] = dict(spec.resources)
    on_cpus: dict[str, Any] = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "num_cpus": STAGE_CPUS,
        "memory": STAGE_MEMORY,
        "compute": ray.data.TaskPoolStrategy(size=at_once(len(blocks), pool, most)),
    }
    with ray.data.DataContext.current(_context(spec.stall_seconds, told)):
        # One block a table; read_parquet would pack a small manifest into a single one, and from_arrow has every
        # block's schema told by a task, for which three workers import pandas before the first editor starts.
        dataset = (
            ray.data.from_blocks(blocks)
            .map_batches(_decode, fn_kwargs={"spec": plan.decode, "told": told}, **on_cpus)
            .map_batches(
                EditActor,
                fn_constructor_args=(plan.engine, pool.gpus, told),
                batch_size=max(block.num_rows for block in blocks),
                batch_format="pyarrow",
                num_cpus=pool.cpus,
                compute=ray.data.ActorPoolStrategy(
                    min_size=to_begin_with(spec, pool, least, may_grow=may_grow),
                    max_size=most,
                    max_tasks_in_flight_per_actor=2,
                    max_concurrent_calls_per_actor=2,  # one call at a time, but the next one's batch is made meanwhile
                ),
                **editing,
            )
            .map_batches(_write, fn_kwargs={"spec": plan.write, "told": told}, **on_cpus)
        )
        # Without prefetching, which gives a block away only when the next one is done: each would be heard of late.
        for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            if rows.num_rows:
                yield rows


def _device(plan: Plan, pool: Resources) -> str | None:
    """What the actors will run on. A GPU is asked for its name only where the job's budget must know its price."""
    if not pool.gpus:
        return devices.CPU
    if plan.job.max_cost is None:
        return None
    import ray

    asked = ray.remote(num_gpus=pool.gpus, num_cpus=0, resources=dict(plan.job.ray.resources))(_name_here)
    return str(ray.get(asked.remote()))


def _name_here() -> str:
    return devices.name_of(devices.best_device())


def _decode(table: pa.Table, spec: DecodeSpec, told: Reporter) -> pa.Table:
    samples = traces.timed("decode", table, lambda block: decode_block(block, spec))
    told.report()
    return samples


def _write(table: pa.Table, spec: WriteSpec, told: Reporter) -> pa.Table:
    if not table.num_rows:  # an empty block has no columns
        return pa.table({"key": pa.array([], pa.string())})
    rows = traces.told(table, lambda block: write_block(block, spec))
    told.report(arrived=ARRIVED)
    return rows


def _context(stall_seconds: int, told: Reporter) -> Any:
    """Ray Data's settings for a run. A copy: a program's own work with Ray Data, before and after, has its own."""
    from ray.data import DataContext

    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":  # Ray's own files keep everything
            handler.setLevel(logging.CRITICAL)  # errors are raised, and said once

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False  # the driver counts committed rows, which Ray's bars do not know
    set_limit(context, stall_seconds, told)
    context.autoscaling_config.actor_pool_util_upscaling_threshold = GROWS_FROM
    context.autoscaling_config.actor_pool_util_downscaling_threshold = SHEDS_BELOW
    with warnings.catch_warnings():  # deprecated, and the only way in 2.60 to say it
        warnings.simplefilter("ignore", DeprecationWarning)
        context.scheduling_strategy = "DEFAULT"  # spreading would decode on GPU nodes while others have CPUs free
    context.max_errored_blocks = 0  # more would drop whole blocks and say nothing
    return context
