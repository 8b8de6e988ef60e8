"""Forecast of a run's time and cost from a probe's measurements.

An actor takes the next block when it has finished one, so a run is simulated block by block: actors that idle during
the last blocks are included. A run pays for its actors from the moment when the cluster is ready.
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

START_UNCERTAINTY: Final = 0.25  # of the start: on one machine, caches may be warm or cold and cores idle or busy
MIN_UNCERTAINTY: Final = 0.10  # of the work, even if the probe's passes took equal time: machines differ
ONE_PASS_UNCERTAINTY: Final = 0.35  # if the probe measured a single pass per stratum

Stratum = tuple[int, int]  # index of a kind and a size class, of ``strata.Strata``


@dataclass(frozen=True)
class Start:
    """Seconds of a run's phases before the first edit and after the last."""

    cluster: float = 0.0  # Ray's start, or the connection to a cluster
    load: float = 0.0  # until the actors edit: their processes, imports and networks
    warm_up: float = 0.0  # how much longer an actor's first pass takes than the others
    finish: float = 0.0  # from the last result to the end


@dataclass(frozen=True)
class Measured:
    """Measurements of a probe."""

    device: str
    actors: int  # that the probe used
    each: float  # GPUs per actor, or CPU cores if it has none
    pool: int  # actors that the cluster has room for
    start: Start
    passes: Mapping[Stratum, Sequence[float]]  # seconds of single passes, without warm-ups if there are others
    decode: Mapping[Stratum, float]  # seconds per row
    write: Mapping[Stratum, float]  # seconds per row
    bytes_a_megapixel: float  # of the image files
    row_bytes: float  # of the results table
    rows: int
    failed: int
    seconds: float  # of the whole probe


@dataclass(frozen=True)
class Work:
    """The rows that are left to edit."""

    kinds: Sequence[int]  # each row's kind, in the run's order
    shares: Mapping[Stratum, float]  # sum to 1
    rows_per_block: Callable[[int], int]  # for a number of actors
    entries_per_row: int  # candidates
    entries_per_pass: int
    megapixels: float = 0.0  # mean per row
    edited: float = 1.0  # share of the rows that reach the networks
    sequential: bool = False  # decode, edit and write take turns, as in one process


@dataclass(frozen=True)
class Span:
    """An estimate and its bounds, which hold nine times out of ten."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Span:
        """Return the estimate in another unit."""
        return Span(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Prediction:
    """Forecast for one number of actors."""

    actors: int
    wall: Span  # seconds, as ``retouch run`` counts them
    device_hours: Span  # paid GPU-hours, or core-hours
    idle_hours: float  # of those, by actors that wait for the last blocks of others
    money: Span | None  # None if the price is unknown


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take."""

    predictions: tuple[Prediction, ...]
    image_bytes: float = 0.0
    table_bytes: float = 0.0
    decode_seconds: float = 0.0  # sum over all rows
    edit_seconds: float = 0.0
    write_seconds: float = 0.0
    guessed: tuple[Stratum, ...] = field(default=())  # strata that were not probed and are estimated from the nearest


def forecast(work: Work, measured: Measured | None, actors: Sequence[int], prices: Prices) -> Forecast:
    """Predict a run.

    Args:
        work: the rows that are left.
        measured: a probe of them; None if no row is left.
        actors: numbers of actors to predict for.
        prices: the price table.
    """
    rows = len(work.kinds)
    if not rows or measured is None:
        nothing = Span(0.0, 0.0, 0.0)
        return Forecast(tuple(Prediction(count, nothing, nothing, 0.0, nothing) for count in actors))
    seconds = {stratum: _per_pass(measured.passes, stratum) for stratum in work.shares}
    decode = rows * sum(share * _per_row(measured.decode, stratum) for stratum, share in work.shares.items())
    write = rows * sum(share * _per_row(measured.write, stratum) for stratum, share in work.shares.items())
    other = (decode + write) / rows if work.sequential else 0.0
    of_kind = _by_kind(seconds, work.shares)
    uncertainty = _uncertainty(measured.passes)
    return Forecast(
        predictions=tuple(_predict(work, measured, of_kind, other, uncertainty, count, prices) for count in actors),
        image_bytes=rows * work.edited * work.megapixels * measured.bytes_a_megapixel,
        table_bytes=rows * measured.row_bytes,
        decode_seconds=decode,
        edit_seconds=float(sum(_block_seconds(work, of_kind, 0.0, max(actors, default=1)))),
        write_seconds=write,
        guessed=tuple(stratum for stratum in work.shares if stratum not in measured.passes),
    )


def _predict(
    work: Work,
    measured: Measured,
    of_kind: Mapping[int, float],
    other: float,
    uncertainty: float,
    actors: int,
    prices: Prices,
) -> Prediction:
    blocks = _block_seconds(work, of_kind, other, actors)
    busy = makespan(blocks, actors)
    start, used = measured.start, min(actors, len(blocks))
    working = start.load + start.warm_up + busy + start.finish
    margin = uncertainty * busy + START_UNCERTAINTY * (working - busy)
    paid = Span(working, max(working - margin, 0.0), working + margin).times(used * measured.each / 3600)
    wall, margin = start.cluster + working, margin + START_UNCERTAINTY * start.cluster
    price = prices.of(measured.device)
    return Prediction(
        actors=actors,
        wall=Span(wall, max(wall - margin, 0.0), wall + margin),
        device_hours=paid,
        idle_hours=(busy * used - sum(blocks)) * measured.each / 3600,
        money=None if price is None else paid.times(price.per_hour),
    )


def makespan(blocks: Sequence[float], actors: int) -> float:
    """Return the seconds until all blocks are done, if each goes to the actor that is free first."""
    free = [0.0] * min(actors, len(blocks))
    for seconds in blocks:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free, default=0.0)


def _block_seconds(work: Work, of_kind: Mapping[int, float], other: float, actors: int) -> list[float]:
    """Return the seconds of each block: its passes of each kind, rounded up, and other work that is sequential."""
    rows_per_block = work.rows_per_block(actors)
    kinds = np.asarray(work.kinds, np.int64)
    blocks = -(-len(kinds) // rows_per_block)
    total = np.zeros(blocks)
    for kind, seconds in of_kind.items():
        counts = np.bincount(np.flatnonzero(kinds == kind) // rows_per_block, minlength=blocks)
        total += np.ceil(counts * work.entries_per_row / work.entries_per_pass) * seconds
    sizes = np.minimum(rows_per_block, len(kinds) - rows_per_block * np.arange(blocks))
    return [float(seconds) for seconds in total * work.edited + sizes * other]


def _by_kind(seconds: Mapping[Stratum, float], shares: Mapping[Stratum, float]) -> dict[int, float]:
    """Return the mean seconds of a pass of each kind."""
    found: dict[int, float] = {}
    for kind in {kind for kind, _ in shares}:
        sizes = {stratum: share for stratum, share in shares.items() if stratum[0] == kind}
        found[kind] = sum(seconds[stratum] * share for stratum, share in sizes.items()) / sum(sizes.values())
    return found


def _per_row(measured: Mapping[Stratum, float], stratum: Stratum) -> float:
    """Return a stratum's seconds per row; if not measured, those of the nearest, scaled by image size."""
    if stratum in measured or not measured:
        return measured.get(stratum, 0.0)
    near = _nearest(measured, stratum)
    return measured[near] * 2.0 ** (stratum[1] - near[1])


def _per_pass(passes: Mapping[Stratum, Sequence[float]], stratum: Stratum) -> float:
    """Return a stratum's seconds per pass; if not measured, those of the nearest: all run at the network's size."""
    if not passes:
        return 0.0
    return statistics.fmean(passes[stratum if stratum in passes else _nearest(passes, stratum)])


def _nearest(measured: Mapping[Stratum, object], stratum: Stratum) -> Stratum:
    """Return the measured stratum of the nearest size, of the same kind if there is one."""
    return min(measured, key=lambda known: (known[0] != stratum[0], abs(known[1] - stratum[1]), known))


def _uncertainty(passes: Mapping[Stratum, Sequence[float]]) -> float:
    """Return the relative uncertainty of a pass: two standard errors, and a margin for what a probe cannot measure."""
    deviations = [
        seconds / statistics.fmean(of_stratum) - 1
        for of_stratum in passes.values()
        if len(of_stratum) > 1 and any(of_stratum)
        for seconds in of_stratum
    ]
    if not deviations:
        return ONE_PASS_UNCERTAINTY
    error = 2 * math.sqrt(sum(value * value for value in deviations) / max(len(deviations) - 1, 1) / len(deviations))
    return math.hypot(MIN_UNCERTAINTY, error)
