"""A few passes of a job's real rows through the real executor, timed: what a forecast goes by. Leaves nothing behind.

The probe is a small run of the same plan into a temporary place, so it pays what a run pays: Ray's start, actors that
load side by side on the same cores, decoding and writing beside them. Each actor's first pass is a warm-up.
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
from retouch.execution.edit import execution
from retouch.execution.lifecycle import Executor
from retouch.execution.plan import Plan
from retouch.execution.planning.forecast import Measured, Start, Stratum
from retouch.execution.planning.strata import Strata
from retouch.execution.tracing import RunObserver, WorkerPool
from retouch.outputs import results
from retouch.outputs.image_paths import IMAGES

PASSES: Final = 2  # an actor, beside its warm-up
LEAST: Final = 2  # of each stratum that is probed
MOST_ACTORS: Final = 16  # that a probe pays for: all on most machines, where they share cores; enough of a cluster
MOST_STRATA: Final = 6  # of the commonest: they get passes of their own


@dataclass(frozen=True)
class ProbePlan(Plan):
    """A plan whose blocks are one pass each, of rows that cost alike."""

    queues: tuple[tuple[Stratum, pa.Table], ...] = ()  # rows by stratum, commonest first

    def blocks(self, actors: int) -> Iterator[pa.Table]:
        """A warm-up for each actor, then each stratum in turn, for as many passes as there are rows."""
        actors = min(actors, self.max_actors or actors)
        rows = rows_a_pass(self)
        left = {stratum: self._cut(table, rows) for stratum, table in self.queues}
        wanted = max(actors * PASSES, LEAST * len(left))
        order = [stratum for stratum, _ in self.queues]
        first = order[:1] * actors
        turns = [order[number % len(order)] for number in range(wanted)]
        for stratum in (*first, *turns):
            block = next(left[stratum], None)
            if block is not None:
                yield block

    @staticmethod
    def _cut(table: pa.Table, rows: int) -> Iterator[pa.Table]:
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows)


@dataclass(frozen=True)
class _Block:
    """What came back of one block."""

    stratum: Stratum
    rows: int
    edited: int  # rows that got as far as the networks
    seconds: Mapping[str, float]  # by stage
    worker: tuple[str, int]
    device: str
    turn: int
    at: float  # when it came


def rows_a_pass(plan: Plan) -> int:
    """Rows whose candidates fill a pass; 1 where one row's take several."""
    return max(1, plan.job.ray.batch_size // plan.job.candidates)


def probe(plan: Plan, strata: Strata, *, executor: Executor = "ray", address: str | None = None) -> Measured:
    """Measure a plan on the machine or the cluster at hand.

    Args:
        plan: with rows left.
        strata: of ``plan.todo``.
        executor: as the run's.
        address: as the run's.

    Raises:
        ConfigError: not one of the probe's rows could be edited, so there is nothing to go by.
        StopRun, Interrupted: as a run would.
    """
    queues = _queues(plan, strata)
    of_key = {key: stratum for stratum, table in queues for key in table["key"].to_pylist()}
    with _place(plan.job.output, address or os.environ.get("RAY_ADDRESS")) as place:
        small = _moved(plan, queues, place)
        crews: list[tuple[float, WorkerPool]] = []
        blocks: list[_Block] = []
        began = time.perf_counter()
        for told in execution(executor, address)(
            small, RunObserver(lambda crew: crews.append((time.perf_counter(), crew)))
        ):
            blocks += _blocks(told, of_key, time.perf_counter())
        ended = time.perf_counter()
        edited = [block for block in blocks if block.edited]
        if not edited:
            raise ConfigError("not one of the probe's rows could be edited; retouch check says of each why")
        bytes_a_megapixel, row_bytes = _left_behind(place)
    ready, crew = crews[0]
    passes = _passes(edited, plan)
    return Measured(
        device=edited[0].device,
        actors=crew.actors,
        each=crew.each,
        pool=crew.capacity,
        start=_start(blocks, plan, passes, (began, ready, ended)),
        passes=passes,
        decode=_a_row(blocks, "decode"),
        write=_a_row(blocks, "write"),
        bytes_a_megapixel=bytes_a_megapixel,
        row_bytes=row_bytes,
        rows=sum(block.rows for block in blocks),
        failed=sum(block.rows - block.edited for block in blocks),
        seconds=ended - began,
    )


def _queues(plan: Plan, strata: Strata) -> tuple[tuple[Stratum, pa.Table], ...]:
    """Rows of the commonest strata: those whose size is known, and where they are few, others of their kind."""
    shares = list(strata.shares())[:MOST_STRATA]
    most = rows_a_pass(plan) * MOST_ACTORS * (1 + PASSES * LEAST)
    biggest = {kind: next(stratum for stratum in shares if stratum[0] == kind) for kind, _ in reversed(shares)}
    rows: dict[Stratum, list[int]] = {stratum: [] for stratum in shares}
    unseen: dict[Stratum, list[int]] = {stratum: [] for stratum in shares}
    for row, kind in enumerate(strata.of_row):
        size = strata.size_of(row)
        if size is not None and (kind, size) in rows:
            rows[kind, size].append(row)
        elif size is None and kind in biggest:
            unseen[biggest[kind]].append(row)
    picked = {stratum: sorted([*found, *unseen[stratum]][:most]) for stratum, found in rows.items()}
    return tuple((stratum, plan.todo.take(pa.array(some, pa.int64()))) for stratum, some in picked.items() if some)


@contextmanager
def _place(output: str, cluster: str | None) -> Iterator[str]:
    """A folder that is gone afterwards: on this machine where it does all the work, else beside the output."""
    if cluster is None and storage.local_path(output) is not None:
        with tempfile.TemporaryDirectory(prefix="retouch-probe-") as folder:
            yield folder
        return
    place = f"{output}.probe-{secrets.token_hex(4)}"
    try:
        yield place
    finally:
        for file in storage.list_files(place):
            storage.delete(file)
        path = storage.local_path(place)
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)


def _moved(plan: Plan, queues: tuple[tuple[Stratum, pa.Table], ...], place: str) -> ProbePlan:
    """The plan on a few rows, with everything that it writes below ``place``; inversions are made anew there."""
    latents = None if plan.engine.latents is None else storage.join(place, "latents")
    parts = {name: getattr(plan, name) for name in ("requests", "weights")}
    return ProbePlan(
        **parts,
        job=plan.job.model_copy(update={"output": place, "latents": latents, "max_cost": None}),
        engine=replace(plan.engine, output=place, latents=latents),
        decode=replace(plan.decode, output=place),
        write=replace(plan.write, output=place, epoch=1),
        todo=pa.concat_tables([table for _, table in queues]),
        max_actors=MOST_ACTORS,
        queues=queues,
    )


def _blocks(told: pa.Table, of_key: Mapping[str, Stratum], at: float) -> Iterator[_Block]:
    """What the executor told of rows, by the block that they were edited in."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in told.to_pylist():
        worker = row[tracing.WORKER]
        found[worker["host"], worker["pid"], worker["turn"]].append(row)
    for (host, pid, turn), rows in found.items():
        seconds = {stage: sum(row[tracing.SECONDS][stage] for row in rows) for stage in tracing.STAGES}
        edited = sum(bool(row["edit_seconds"]) for row in rows)
        device = rows[0][tracing.WORKER]["device"]
        yield _Block(of_key[rows[0]["key"]], len(rows), edited, seconds, (host, pid), device, turn, at)


def _seconds_a_pass(block: _Block, plan: Plan) -> float:
    """Of a block's passes; of a row that is tried in several rounds, all of them together."""
    return block.seconds["edit"] / -(-block.edited * plan.job.candidates // plan.job.ray.batch_size)


def _warm_ups(blocks: Sequence[_Block]) -> list[_Block]:
    """Each worker's first block that was edited."""
    first: dict[tuple[str, int], _Block] = {}
    for block in sorted((block for block in blocks if block.edited), key=lambda block: block.turn):
        first.setdefault(block.worker, block)
    return list(first.values())


def _passes(blocks: Sequence[_Block], plan: Plan) -> dict[Stratum, tuple[float, ...]]:
    """Seconds of single passes; warm-ups only where their stratum has no other."""
    warm_ups = _warm_ups(blocks)
    found: dict[Stratum, tuple[float, ...]] = {}
    for stratum in dict.fromkeys(block.stratum for block in blocks):
        mine = [block for block in blocks if block.stratum == stratum]
        steady = [block for block in mine if block not in warm_ups]
        found[stratum] = tuple(_seconds_a_pass(block, plan) for block in steady or mine)
    return found


def _start(
    blocks: Sequence[_Block],
    plan: Plan,
    passes: Mapping[Stratum, Sequence[float]],
    clock: tuple[float, float, float],
) -> Start:
    """The start by part.

    Args:
        blocks: all that came.
        plan: the probe's.
        passes: seconds of steady ones.
        clock: when the probe began, when the cluster was there, when all was over.
    """
    began, ready, ended = clock
    loads = [block.at - block.seconds["edit"] - block.seconds["write"] - ready for block in blocks if not block.turn]
    over = [_seconds_a_pass(block, plan) - statistics.fmean(passes[block.stratum]) for block in _warm_ups(blocks)]
    return Start(
        cluster=ready - began,
        load=max(statistics.fmean(loads), 0.0) if loads else 0.0,  # none: the worker that began died
        warm_up=max(statistics.fmean(over), 0.0),
        finish=ended - max(block.at - block.seconds["write"] for block in blocks),
    )


def _a_row(blocks: Sequence[_Block], stage: str) -> dict[Stratum, float]:
    found: dict[Stratum, float] = {}
    for stratum in dict.fromkeys(block.stratum for block in blocks):
        mine = [block for block in blocks if block.stratum == stratum]
        found[stratum] = sum(block.seconds[stage] for block in mine) / sum(block.rows for block in mine)
    return found


def _left_behind(place: str) -> tuple[float, float]:
    """Bytes of image files a megapixel, and of the results table a row, of what the probe wrote."""
    table = results.read(place)
    written = table.filter(table["width"].is_valid())
    megapixels = sum(w * h for w, h in zip(*(written[n].to_pylist() for n in ("width", "height")), strict=True)) / 1e6
    files = storage.list_files(storage.join(place, IMAGES))
    return sum(len(storage.read_bytes(file)) for file in files) / max(megapixels, 1e-9), table.nbytes / table.num_rows
