"""Carries out a plan in this process: decode, edit and write, a block at a time. Knows no cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.engine import Engine, best_device, edit_block
from pipeline.plan import Plan
from pipeline.stages import decode_block, write_block


def execute(plan: Plan) -> Iterator[pa.Table]:
    """Yield each block's results rows after they are committed."""
    engine = Engine(plan.engine, best_device())
    for block in plan.blocks(actors=1):
        yield write_block(edit_block(engine, decode_block(block, plan.decode)), plan.write)
