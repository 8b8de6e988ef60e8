"""Probe: a few timed passes of a job's own rows through its executor, for a forecast.

The probe is a small run of the same plan into a temporary folder, so it measures what a run pays: Ray's start, actors
that load concurrently on shared cores, decoding and writing at the same time. Each actor's first pass is a warm-up.
"""

from __future__ import annotations

import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from retouch import storage
from retouch.errors import ConfigError
from retouch.execution import tracing
from retouch.execution.edit import executor_function
from retouch.execution.lifecycle import Executor
from retouch.execution.plan import Plan
from retouch.execution.planning.forecast import Measured, Start, Stratum
from retouch.execution.planning.strata import Strata
from retouch.execution.tracing import RunObserver, WorkerPool
from retouch.outputs import results
from retouch.outputs.image_paths import IMAGES

PASSES_PER_ACTOR: Final = 2  # after its warm-up
PASSES_PER_STRATUM: Final = 2  # at least
MAX_ACTORS: Final = 16  # usually all on one machine, where they share cores; of a cluster a sufficient sample
MAX_STRATA: Final = 6  # the largest ones are probed


@dataclass(frozen=True)
class ProbePlan(Plan):
    """A plan whose blocks are one pass each, of rows of one stratum."""

    queues: tuple[tuple[Stratum, pa.Table], ...] = ()  # rows by stratum, the largest first

    def blocks(self, actors: int) -> Iterator[pa.Table]:
        """Yield a warm-up block for each actor, then blocks of the strata in turn, as far as the rows suffice."""
        actors = min(actors, self.max_actors or actors)
        rows = rows_per_pass(self)
        left = {stratum: self._cut(table, rows) for stratum, table in self.queues}
        wanted = max(actors * PASSES_PER_ACTOR, PASSES_PER_STRATUM * len(left))
        order = [stratum for stratum, _ in self.queues]
        warm_ups = order[:1] * actors
        turns = [order[number % len(order)] for number in range(wanted)]
        for stratum in (*warm_ups, *turns):
            block = next(left[stratum], None)
            if block is not None:
                yield block

    @staticmethod
    def _cut(table: pa.Table, rows: int) -> Iterator[pa.Table]:
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows)


@dataclass(frozen=True)
class _Block:
    """Measurements of one block."""

    stratum: Stratum
    rows: int
    edited: int  # rows that reached the networks
    seconds: Mapping[str, float]  # by stage
    worker: tuple[str, int]
    device: str
    turn: int  # number of the block among its worker's, from 0
    at: float  # when it was committed, by ``time.perf_counter``


def rows_per_pass(plan: Plan) -> int:
    """Return how many rows' candidates fill a pass; 1 if one row's take several passes."""
    return max(1, plan.job.ray.batch_size // plan.job.candidates)


def probe(plan: Plan, strata: Strata, *, executor: Executor = "ray", address: str | None = None) -> Measured:
    """Measure a plan on this machine or on a cluster.

    Args:
        plan: with rows left.
        strata: of ``plan.todo``.
        executor: as the run's.
        address: as the run's.

    Raises:
        ConfigError: none of the probe's rows could be edited, so nothing was measured.
        StopRun, Interrupted: as a run would.
    """
    queues = _queues(plan, strata)
    of_key = {key: stratum for stratum, table in queues for key in table["key"].to_pylist()}
    with _temporary_output(plan.job.output, address or os.environ.get("RAY_ADDRESS")) as folder:
        pools: list[tuple[float, WorkerPool]] = []
        observer = RunObserver(lambda pool: pools.append((time.perf_counter(), pool)))
        blocks: list[_Block] = []
        began = time.perf_counter()
        for rows in executor_function(executor, address)(_probe_plan(plan, queues, folder), observer):
            blocks += _blocks(rows, of_key, time.perf_counter())
        ended = time.perf_counter()
        edited = [block for block in blocks if block.edited]
        if not edited:
            raise ConfigError("none of the probe's rows could be edited; retouch check reports why")
        bytes_a_megapixel, row_bytes = _written_bytes(folder)
    ready, pool = pools[0]
    passes = _passes(edited, plan)
    return Measured(
        device=edited[0].device,
        actors=pool.actors,
        each=pool.each,
        pool=pool.capacity,
        start=_start(blocks, plan, passes, (began, ready, ended)),
        passes=passes,
        decode=_seconds_per_row(blocks, "decode"),
        write=_seconds_per_row(blocks, "write"),
        bytes_a_megapixel=bytes_a_megapixel,
        row_bytes=row_bytes,
        rows=sum(block.rows for block in blocks),
        failed=sum(block.rows - block.edited for block in blocks),
        seconds=ended - began,
    )


def _queues(plan: Plan, strata: Strata) -> tuple[tuple[Stratum, pa.Table], ...]:
    """Return rows of the largest strata: those of known size, and if they are too few, others of their kind."""
    shares = list(strata.shares())[:MAX_STRATA]
    most = rows_per_pass(plan) * MAX_ACTORS * (1 + PASSES_PER_ACTOR * PASSES_PER_STRATUM)
    biggest = {kind: next(stratum for stratum in shares if stratum[0] == kind) for kind, _ in reversed(shares)}
    rows: dict[Stratum, list[int]] = {stratum: [] for stratum in shares}
    of_unknown_size: dict[Stratum, list[int]] = {stratum: [] for stratum in shares}
    for row, kind in enumerate(strata.of_row):
        size = strata.size_of(row)
        if size is not None and (kind, size) in rows:
            rows[kind, size].append(row)
        elif size is None and kind in biggest:
            of_unknown_size[biggest[kind]].append(row)
    picked = {stratum: sorted([*found, *of_unknown_size[stratum]][:most]) for stratum, found in rows.items()}
    return tuple((stratum, plan.todo.take(pa.array(some, pa.int64()))) for stratum, some in picked.items() if some)


@contextmanager
def _temporary_output(output: str, cluster: str | None) -> Iterator[str]:
    """Yield a folder that is deleted afterwards: on this machine if it does all the work, else next to the output."""
    if cluster is None and storage.local_path(output) is not None:
        with tempfile.TemporaryDirectory(prefix="retouch-probe-") as folder:
            yield folder
        return
    folder = f"{output}.probe-{secrets.token_hex(4)}"
    try:
        yield folder
    finally:
        for file in storage.list_files(folder):
            storage.delete(file)
        path = storage.local_path(folder)
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)


def _probe_plan(plan: Plan, queues: tuple[tuple[Stratum, pa.Table], ...], folder: str) -> ProbePlan:
    """Return the plan for a few rows, writing below ``folder``, with an empty latent cache there."""
    latents = None if plan.engine.latents is None else storage.join(folder, "latents")
    parts = {name: getattr(plan, name) for name in ("requests", "weights")}
    return ProbePlan(
        **parts,
        job=plan.job.model_copy(update={"output": folder, "latents": latents, "max_cost": None}),
        engine=replace(plan.engine, output=folder, latents=latents),
        decode=replace(plan.decode, output=folder),
        write=replace(plan.write, output=folder, epoch=1),
        todo=pa.concat_tables([table for _, table in queues]),
        max_actors=MAX_ACTORS,
        queues=queues,
    )


def _blocks(reported: pa.Table, of_key: Mapping[str, Stratum], at: float) -> Iterator[_Block]:
    """Group the rows that the executor reported by the block in which they were edited."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in reported.to_pylist():
        worker = row[tracing.WORKER]
        found[worker["host"], worker["pid"], worker["turn"]].append(row)
    for (host, pid, turn), rows in found.items():
        seconds = {stage: sum(row[tracing.SECONDS][stage] for row in rows) for stage in tracing.STAGES}
        edited = sum(bool(row["edit_seconds"]) for row in rows)
        device = rows[0][tracing.WORKER]["device"]
        yield _Block(of_key[rows[0]["key"]], len(rows), edited, seconds, (host, pid), device, turn, at)


def _seconds_per_pass(block: _Block, plan: Plan) -> float:
    """Return a block's seconds per pass. The rounds of a row count together as one."""
    return block.seconds["edit"] / -(-block.edited * plan.job.candidates // plan.job.ray.batch_size)


def _warm_ups(blocks: Sequence[_Block]) -> list[_Block]:
    """Return each worker's first block that reached the networks."""
    first: dict[tuple[str, int], _Block] = {}
    for block in sorted((block for block in blocks if block.edited), key=lambda block: block.turn):
        first.setdefault(block.worker, block)
    return list(first.values())


def _passes(blocks: Sequence[_Block], plan: Plan) -> dict[Stratum, tuple[float, ...]]:
    """Return the seconds of single passes; warm-ups only if their stratum has no others."""
    warm_ups = _warm_ups(blocks)
    found: dict[Stratum, tuple[float, ...]] = {}
    for stratum in dict.fromkeys(block.stratum for block in blocks):
        own = [block for block in blocks if block.stratum == stratum]
        steady = [block for block in own if block not in warm_ups]
        found[stratum] = tuple(_seconds_per_pass(block, plan) for block in steady or own)
    return found


def _start(
    blocks: Sequence[_Block],
    plan: Plan,
    passes: Mapping[Stratum, Sequence[float]],
    clock: tuple[float, float, float],
) -> Start:
    """Return the seconds of the phases before the first edit and after the last.

    Args:
        blocks: all of the probe.
        plan: the job's.
        passes: seconds of single passes by stratum.
        clock: when the probe began, when the cluster was ready, when the probe ended.
    """
    began, ready, ended = clock
    loads = [block.at - block.seconds["edit"] - block.seconds["write"] - ready for block in blocks if not block.turn]
    over = [_seconds_per_pass(block, plan) - statistics.fmean(passes[block.stratum]) for block in _warm_ups(blocks)]
    return Start(
        cluster=ready - began,
        load=max(statistics.fmean(loads), 0.0) if loads else 0.0,  # empty if the workers that began have died
        warm_up=max(statistics.fmean(over), 0.0),
        finish=ended - max(block.at - block.seconds["write"] for block in blocks),
    )


def _seconds_per_row(blocks: Sequence[_Block], stage: str) -> dict[Stratum, float]:
    found: dict[Stratum, float] = {}
    for stratum in dict.fromkeys(block.stratum for block in blocks):
        own = [block for block in blocks if block.stratum == stratum]
        found[stratum] = sum(block.seconds[stage] for block in own) / sum(block.rows for block in own)
    return found


def _written_bytes(output: str) -> tuple[float, float]:
    """Return the bytes of the probe's image files per megapixel, and of its results table per row."""
    table = results.read(output)
    written = table.filter(table["width"].is_valid())
    megapixels = sum(w * h for w, h in zip(*(written[n].to_pylist() for n in ("width", "height")), strict=True)) / 1e6
    files = storage.list_files(storage.join(output, IMAGES))
    return sum(len(storage.read_bytes(file)) for file in files) / max(megapixels, 1e-9), table.nbytes / table.num_rows
