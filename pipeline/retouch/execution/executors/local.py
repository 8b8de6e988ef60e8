"""Carries out a plan in this process: decode, edit and write, a block at a time. Knows no cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from retouch import telemetry
from retouch.execution import traces
from retouch.execution.engine import Engine, edit_block
from retouch.execution.plan import Plan
from retouch.execution.stages import decode_block, write_block
from retouch.execution.traces import Crew, Listener, Worker
from retouch.models import devices


def execute(plan: Plan, heard: Listener | None = None) -> Iterator[pa.Table]:
    """Yield what ``traces.told`` has of each block's rows after they are committed; ``heard`` is told who works."""
    heard = heard or Listener()
    device = devices.best_device()
    name = devices.name_of(device)
    heard.met(Crew(1, 1.0, name, 1))
    began, before = time.perf_counter(), telemetry.totals()
    engine = Engine(plan.engine, device)
    worker = Worker(name, time.perf_counter() - began)
    for block in plan.blocks(actors=1):
        decoded = traces.timed("decode", block, lambda table: decode_block(table, plan.decode))
        at = time.time()
        edited = traces.timed("edit", decoded, lambda table: edit_block(engine, table))
        yield traces.told(
            traces.edited_by(edited, worker.facts(len(engine.losses), at)), lambda table: write_block(table, plan.write)
        )
    heard.figures.update({**telemetry.since(before), telemetry.LIFE: time.perf_counter() - began})
