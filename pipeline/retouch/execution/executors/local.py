"""Run a plan in this process: decode, edit and write one block after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from retouch import telemetry
from retouch.execution import tracing
from retouch.execution.engine import Engine, edit_block
from retouch.execution.plan import Plan
from retouch.execution.stages import decode_block, write_block
from retouch.execution.tracing import RunObserver, WorkerFacts, WorkerPool
from retouch.models import devices


def execute(plan: Plan, observer: RunObserver | None = None) -> Iterator[pa.Table]:
    """Yield the ``tracing.block_report`` of each block after it is committed."""
    observer = observer or RunObserver()
    device = devices.best_device()
    name = devices.name_of(device)
    observer.on_cluster_ready(WorkerPool(1, 1.0, name, 1))
    began, before = time.perf_counter(), telemetry.totals()
    engine = Engine(plan.engine, device)
    worker = WorkerFacts(name, time.perf_counter() - began)
    for block in plan.blocks(actors=1):
        decoded = tracing.timed("decode", block, lambda table: decode_block(table, plan.decode))
        edit_began = time.time()
        edited = tracing.timed("edit", decoded, lambda table: edit_block(engine, table))
        edited = tracing.with_worker(edited, worker.of_block(len(engine.losses), edit_began))
        yield tracing.block_report(edited, lambda table: write_block(table, plan.write))
    observer.totals.update({**telemetry.since(before), telemetry.LIFE: time.perf_counter() - began})
