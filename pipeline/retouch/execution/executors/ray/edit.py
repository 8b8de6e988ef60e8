"""Run an edit plan with Ray Data: decode in CPU tasks, edit in a pool of actors, write in CPU tasks.

Traps of Ray named in comments were found with Ray 2.60.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from retouch.errors import Interrupted
from retouch.execution import tracing
from retouch.execution.engine import Engine, edit_block
from retouch.execution.executors import absolute_paths
from retouch.execution.executors.ray import autoscaling, sizing
from retouch.execution.executors.ray.cluster import cluster, run_error, total_resources
from retouch.execution.executors.ray.metrics import WRITE_TIMEOUT, WorkerReporter, reporting
from retouch.execution.executors.ray.prefetch import fetch_weights
from retouch.execution.executors.ray.sizing import STAGE_CPUS, PoolSize
from retouch.execution.plan import Plan
from retouch.execution.specs import EngineSpec, WriteSpec
from retouch.execution.stages import decode_block, write_block
from retouch.execution.tracing import RunObserver, WorkerFacts, WorkerPool
from retouch.manifests.decode import DecodeSpec
from retouch.models import devices
from retouch.storage import downloads

STAGE_MEMORY: Final = 512 << 20  # bytes of heap per decode or write task; Ray does not budget the heap by default
# The pool grows if it has more queued blocks per actor than this fraction of what they can hold: at half, all that fit
# may start at once. Idle actors are kept, since loading takes long.
GROW_ABOVE: Final = 0.5
SHRINK_BELOW: Final = 0.0


class EditActor:
    """A loaded engine in a Ray actor, for the whole run."""

    def __init__(self, spec: EngineSpec, gpus: float, reporter: WorkerReporter) -> None:
        import ray

        self.reporter, self.began = reporter, time.perf_counter()
        self.error: Exception | None = None
        device = devices.best_device() if gpus else devices.CPU
        try:
            with downloads.watched(reporter.report_download):
                self.engine = Engine(spec, device)
        except Exception as error:
            self.error = error  # raised by the first call: an error of a constructor reaches the driver as text only
            return
        replaced = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self.worker = WorkerFacts(devices.name_of(device), time.perf_counter() - self.began, replaced=replaced)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Edit a block: its samples become outcomes."""
        if self.error is not None:
            raise self.error
        began = time.time()
        with downloads.watched(self.reporter.report_download):
            edited = tracing.timed("edit", table, lambda block: edit_block(self.engine, block))
        self.reporter.report(life=time.perf_counter() - self.began)
        return tracing.with_worker(edited, self.worker.of_block(len(self.engine.losses), began))


def execute(plan: Plan, address: str | None = None, observer: RunObserver | None = None) -> Iterator[pa.Table]:
    """Yield the ``tracing.block_report`` of each block after it is committed.

    Args:
        plan: of the rows to edit.
        address: of a running cluster (``auto``, ``ray://host:10001``); None takes ``RAY_ADDRESS``, or starts Ray here.
        observer: called when the run waits for nodes and when the cluster is ready; gets the workers' telemetry.

    Raises:
        StopRun: the cluster, started here, cannot hold the pool.
        Interrupted: no suitable node came in time, or Ray gave up the run; committed rows stay.
    """
    spec, observer = plan.job.ray, observer or RunObserver()
    workers = None if spec.actors == "auto" else spec.actors
    with cluster(address, workers, spare_cpus=2 * STAGE_CPUS) as may_grow:
        import ray
        from ray.data.exceptions import ExecutionTimeoutError

        try:
            with autoscaling.resources(sizing.requested(spec), 1 if spec.actors == "auto" else spec.actors):
                if may_grow:
                    autoscaling.wait_for_node(spec, observer.on_waiting)
                with reporting(plan.job.name, observer.totals) as reporter:
                    yield from _stream(absolute_paths.editing(plan), observer, reporter, may_grow=may_grow)
        except ExecutionTimeoutError as error:
            raise Interrupted(
                f"no block finished for {spec.stall_seconds} s (ray.stall_seconds): no GPU is free, a pass or loading "
                "the models takes longer, or a worker hangs; run the same command again to resume"
            ) from error
        except (ray.exceptions.RayError, TimeoutError) as error:
            raise run_error(error) from error


def _stream(plan: Plan, observer: RunObserver, reporter: WorkerReporter, *, may_grow: bool) -> Iterator[pa.Table]:
    import ray.data

    spec, resources = plan.job.ray, total_resources()
    fits = sizing.capacity(spec, resources)
    blocks = list(plan.blocks(fits.capacity if spec.actors == "auto" else spec.actors))
    pool = sizing.size_pool(spec, resources, len(blocks), may_grow=may_grow, max_actors=plan.max_actors)
    device = _device(plan, pool)
    observer.on_cluster_ready(WorkerPool(pool.min_actors, pool.gpus or pool.cpus, device, pool.capacity))
    if may_grow:  # on a cluster started here the plan has fetched them already
        fetch_weights(plan.engine, pool, spec, reporter)
    actor_options: dict[str, Any] = {"num_gpus": pool.gpus} if pool.gpus else {}
    if spec.resources:
        actor_options["resources"] = dict(spec.resources)
    stage_options: dict[str, Any] = {
        "batch_size": None,
        "batch_format": "pyarrow",
        "num_cpus": STAGE_CPUS,
        "memory": STAGE_MEMORY,
        "compute": ray.data.TaskPoolStrategy(size=pool.stage_tasks(len(blocks))),
    }
    with ray.data.DataContext.current(_context(spec.stall_seconds)):
        dataset = (
            # One block per table: read_parquet would pack a small manifest into a single block, and from_arrow runs
            # tasks that only compute the blocks' schemas.
            ray.data.from_blocks(blocks)
            # 1. Decode: fetch each row's files and turn them into arrays.
            .map_batches(_decode, fn_kwargs={"spec": plan.decode, "reporter": reporter}, **stage_options)
            # 2. Edit: forward passes and metrics, on one device per actor.
            .map_batches(
                EditActor,
                fn_constructor_args=(plan.engine, pool.gpus, reporter),
                batch_size=max(block.num_rows for block in blocks),
                batch_format="pyarrow",
                num_cpus=pool.cpus,
                compute=ray.data.ActorPoolStrategy(
                    min_size=pool.min_actors,
                    max_size=pool.max_actors,
                    max_tasks_in_flight_per_actor=2,
                    max_concurrent_calls_per_actor=2,  # prepares the next batch during a call; calls do not overlap
                ),
                **actor_options,
            )
            # 3. Write: composite, encode, store images, then commit the rows.
            .map_batches(_write, fn_kwargs={"spec": plan.write, "reporter": reporter}, **stage_options)
        )
        # Prefetching would hold each finished block back until the next one is finished.
        for rows in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            if rows.num_rows:
                yield rows


def _device(plan: Plan, pool: PoolSize) -> str | None:
    """Return the device that the actors run on. A GPU's name is looked up only if the job has a budget."""
    if not pool.gpus:
        return devices.CPU
    if plan.job.max_cost is None:
        return None
    import ray

    lookup = ray.remote(num_gpus=pool.gpus, num_cpus=0, resources=dict(plan.job.ray.resources))(_device_name)
    return str(ray.get(lookup.remote()))


def _device_name() -> str:
    return devices.name_of(devices.best_device())


def _decode(table: pa.Table, spec: DecodeSpec, reporter: WorkerReporter) -> pa.Table:
    samples = tracing.timed("decode", table, lambda block: decode_block(block, spec))
    reporter.report()
    return samples


def _write(table: pa.Table, spec: WriteSpec, reporter: WorkerReporter) -> pa.Table:
    if not table.num_rows:  # an empty block has no columns
        return pa.table({"key": pa.array([], pa.string())})
    rows = tracing.block_report(table, lambda block: write_block(block, spec))
    reporter.report(timeout=WRITE_TIMEOUT)
    return rows


def _context(stall_seconds: int) -> Any:
    """Return Ray Data's settings for a run: a copy, so that other uses of Ray Data in this program keep theirs."""
    from ray.data import DataContext

    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":  # Ray's own log files keep everything
            handler.setLevel(logging.CRITICAL)  # errors are raised, and printed once

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False  # the driver counts committed rows, which Ray's bars do not show
    context.execution_no_progress_timeout_s = stall_seconds  # 1,800 by default fails runs that wait for a spot GPU
    context.raise_original_map_exception = True  # so that our own errors arrive as what they are
    context.autoscaling_config.actor_pool_util_upscaling_threshold = GROW_ABOVE
    context.autoscaling_config.actor_pool_util_downscaling_threshold = SHRINK_BELOW
    with warnings.catch_warnings():  # deprecated, but the only way in Ray 2.60
        warnings.simplefilter("ignore", DeprecationWarning)
        context.scheduling_strategy = "DEFAULT"  # spreading would decode on GPU nodes while others have CPUs free
    context.max_errored_blocks = 0  # more would drop whole blocks without an error
    return context
