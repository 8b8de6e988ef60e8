"""What a run will take and cost, from what a probe measured. Arithmetic alone: reads nothing, runs nothing.

Each actor takes the next block when it is done with its last, so the end is simulated block by block: what the last
blocks leave idle is in the figures. A run pays for its actors from the moment when the cluster is there.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from retouch.jobs.prices import Prices

START_DOUBT: Final = 0.25  # of the start: of two starts on one machine, one may find files in memory and cores idle
LEAST_DOUBT: Final = 0.10  # of the work, however alike the probe's passes were: machines are not always alike
ONE_PASS_DOUBT: Final = 0.35  # where a single pass is all that there is to go by

Stratum = tuple[int, int]  # a kind's place and a size class, of ``strata.Strata``


@dataclass(frozen=True)
class Start:
    """Seconds until the first edit is under way, by part; and those at the end."""

    cluster: float = 0.0  # Ray's start, or the connection to a cluster
    load: float = 0.0  # from there until the actors edit: their processes, imports and networks
    warm_up: float = 0.0  # by which an actor's first pass is slower than the others
    finish: float = 0.0  # from the last answer to the end


@dataclass(frozen=True)
class Measured:
    """What a probe saw. Seconds are those of one pass, or of one row."""

    device: str
    actors: int  # that worked
    each: float  # GPUs an actor, or CPU cores where it has none
    pool: int  # actors that there is room for
    start: Start
    passes: Mapping[Stratum, Sequence[float]]  # seconds of single passes, warm-ups left out where others are there
    decode: Mapping[Stratum, float]  # a row
    write: Mapping[Stratum, float]  # a row
    bytes_a_megapixel: float  # of the image files
    row_bytes: float  # of the results table
    rows: int
    failed: int
    seconds: float  # that the probe took


@dataclass(frozen=True)
class Work:
    """The rows that are left."""

    kinds: Sequence[int]  # each row's kind, in the run's order
    shares: Mapping[Stratum, float]  # together 1
    rows_per_block: Callable[[int], int]  # for so many actors
    entries_a_row: int  # candidates
    entries_a_pass: int
    megapixels: float = 0.0  # a row, on average
    edited: float = 1.0  # share of the rows that get as far as the networks
    in_turn: bool = False  # decode and write wait for the editor, as in one process


@dataclass(frozen=True)
class Span:
    """A figure and the bounds that it is expected in, nine times of ten."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Span:
        """In another unit."""
        return Span(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Prediction:
    """For one number of actors."""

    actors: int
    wall: Span  # seconds, as ``retouch run`` counts them
    device_hours: Span  # GPU-hours, or core-hours, that are paid for
    idle_hours: float  # of those: actors that have nothing left to do while the last blocks are done
    money: Span | None  # None where the price is not known


@dataclass(frozen=True)
class Forecast:
    """What is to be expected of a run."""

    predictions: tuple[Prediction, ...]
    image_bytes: float = 0.0
    table_bytes: float = 0.0
    decode_seconds: float = 0.0  # of all rows together
    edit_seconds: float = 0.0
    write_seconds: float = 0.0
    guessed: tuple[Stratum, ...] = field(default=())  # strata without a pass of their own: taken for the nearest


def forecast(work: Work, measured: Measured | None, actors: Sequence[int], prices: Prices) -> Forecast:
    """Predict a run.

    Args:
        work: the rows left; without rows nothing is done and nothing is paid.
        measured: a probe of them; None where there are none.
        actors: numbers of actors to predict for.
        prices: the table in force.
    """
    rows = len(work.kinds)
    if not rows or measured is None:
        nothing = Span(0.0, 0.0, 0.0)
        return Forecast(tuple(Prediction(count, nothing, nothing, 0.0, nothing) for count in actors))
    seconds = {stratum: _mean(measured.passes, stratum) for stratum in work.shares}
    decode = rows * sum(share * _one(measured.decode, stratum) for stratum, share in work.shares.items())
    write = rows * sum(share * _one(measured.write, stratum) for stratum, share in work.shares.items())
    beside = (decode + write) / rows if work.in_turn else 0.0
    of_kind = _by_kind(seconds, work.shares)
    doubt = _doubt(measured.passes)
    return Forecast(
        predictions=tuple(_prediction(work, measured, of_kind, beside, doubt, count, prices) for count in actors),
        image_bytes=rows * work.edited * work.megapixels * measured.bytes_a_megapixel,
        table_bytes=rows * measured.row_bytes,
        decode_seconds=decode,
        edit_seconds=float(sum(_block_seconds(work, of_kind, 0.0, max(actors, default=1)))),
        write_seconds=write,
        guessed=tuple(stratum for stratum in work.shares if stratum not in measured.passes),
    )


def _prediction(
    work: Work,
    measured: Measured,
    of_kind: Mapping[int, float],
    beside: float,
    doubt: float,
    actors: int,
    prices: Prices,
) -> Prediction:
    blocks = _block_seconds(work, of_kind, beside, actors)
    busy = makespan(blocks, actors)
    start, used = measured.start, min(actors, len(blocks))
    at_work = start.load + start.warm_up + busy + start.finish
    off = doubt * busy + START_DOUBT * (at_work - busy)
    wall = start.cluster + at_work
    more = off + START_DOUBT * start.cluster
    paid = Span(at_work, max(at_work - off, 0.0), at_work + off).times(used * measured.each / 3600)
    price = prices.of(measured.device)
    return Prediction(
        actors=actors,
        wall=Span(wall, max(wall - more, 0.0), wall + more),
        device_hours=paid,
        idle_hours=(busy * used - sum(blocks)) * measured.each / 3600,
        money=None if price is None else paid.times(price.per_hour),
    )


def makespan(blocks: Sequence[float], actors: int) -> float:
    """Seconds until all blocks are done, each by the actor that is free first, in their order."""
    free = [0.0] * min(actors, len(blocks))
    for seconds in blocks:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free, default=0.0)


def _block_seconds(work: Work, of_kind: Mapping[int, float], beside: float, actors: int) -> list[float]:
    """Of every block: its passes, kind by kind, a part of a pass being padded to a whole one."""
    rows_a_block = work.rows_per_block(actors)
    kinds = np.asarray(work.kinds, np.int64)
    blocks = -(-len(kinds) // rows_a_block)
    total = np.zeros(blocks)
    for kind, seconds in of_kind.items():
        counts = np.bincount(np.flatnonzero(kinds == kind) // rows_a_block, minlength=blocks)
        total += np.ceil(counts * work.entries_a_row / work.entries_a_pass) * seconds
    sizes = np.minimum(rows_a_block, len(kinds) - rows_a_block * np.arange(blocks))
    return [float(seconds) for seconds in total * work.edited + sizes * beside]


def _by_kind(seconds: Mapping[Stratum, float], shares: Mapping[Stratum, float]) -> dict[int, float]:
    """Seconds of a pass of each kind, over its sizes."""
    found: dict[int, float] = {}
    for kind in {kind for kind, _ in shares}:
        mine = {stratum: share for stratum, share in shares.items() if stratum[0] == kind}
        found[kind] = sum(seconds[stratum] * share for stratum, share in mine.items()) / sum(mine.values())
    return found


def _one(measured: Mapping[Stratum, float], stratum: Stratum) -> float:
    """Of a stratum; of the nearest that was measured, where it was not, in proportion to the size."""
    if stratum in measured or not measured:
        return measured.get(stratum, 0.0)
    near = _nearest(measured, stratum)
    return measured[near] * 2.0 ** (stratum[1] - near[1])


def _mean(passes: Mapping[Stratum, Sequence[float]], stratum: Stratum) -> float:
    """As ``_one``; but a pass runs at the network's size, whatever the source's."""
    if not passes:
        return 0.0
    return statistics.fmean(passes[stratum if stratum in passes else _nearest(passes, stratum)])


def _nearest(measured: Mapping[Stratum, object], stratum: Stratum) -> Stratum:
    """Of the same kind if there is one, then of the nearest size."""
    return min(measured, key=lambda known: (known[0] != stratum[0], abs(known[1] - stratum[1]), known))


def _doubt(passes: Mapping[Stratum, Sequence[float]]) -> float:
    """Two standard errors of a pass, as a share of it, and some for what a probe cannot see."""
    off = [s / statistics.fmean(some) - 1 for some in passes.values() if len(some) > 1 and any(some) for s in some]
    if not off:
        return ONE_PASS_DOUBT
    error = 2 * math.sqrt(sum(value * value for value in off) / max(len(off) - 1, 1) / len(off))
    return math.hypot(LEAST_DOUBT, error)
