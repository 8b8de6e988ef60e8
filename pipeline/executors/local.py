"""Carries out a plan in this process: decode, edit and write, a block at a time. Knows no cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa

from pipeline import figures
from pipeline.engine import Engine, best_device, edit_block
from pipeline.plan import Plan
from pipeline.stages import decode_block, write_block


def execute(plan: Plan, summed: dict[str, float] | None = None) -> Iterator[pa.Table]:
    """Yield each block's results rows after they are committed; ``summed`` gets the run's figures in the end."""
    began, before = time.monotonic(), figures.totals()
    engine = Engine(plan.engine, best_device())
    for block in plan.blocks(actors=1):
        yield write_block(edit_block(engine, decode_block(block, plan.decode)), plan.write)
    if summed is not None:
        summed.update({**figures.since(before), figures.LIFE: time.monotonic() - began})
