"""A run's pace: rows per second and busy workers over time, from its event log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from retouch.outputs.event_log import Call

BINS: Final = 60


@dataclass(frozen=True)
class Timeline:
    """The pace of a call, in bins of equal duration."""

    seconds: float  # from its start to its last block
    rows_per_second: tuple[float, ...]
    busy: tuple[float, ...]  # fraction of the actors' time in forward passes, 0..1; empty where it was not recorded
    actors: int


def make_timeline(calls: Sequence[Call]) -> Timeline | None:
    """Return the timeline of the latest call that committed rows; None if no call did.

    A block's rows are spread over the seconds of its forward passes, so that a run of few blocks shows no false pauses.
    """
    call = next((call for call in reversed(calls) if call.blocks), None)
    if call is None:
        return None
    actors = call.actors or 1
    seconds = max(call.blocks[-1].time - call.start, 1e-3)
    width = seconds / BINS
    rows, busy = [0.0] * BINS, [0.0] * BINS
    for block in call.blocks:
        end, work = block.time - call.start, block.edit_seconds or 0.0
        start = max(0.0, end - max(work, width))
        for number, fraction in _spread(start, end, width):
            rows[number] += block.rows * fraction
            busy[number] += work * fraction
    recorded = any(block.edit_seconds is not None for block in call.blocks)
    return Timeline(
        seconds=seconds,
        rows_per_second=tuple(count / width for count in rows),
        busy=tuple(min(1.0, work / (width * actors)) for work in busy) if recorded else (),
        actors=actors,
    )


def _spread(start: float, end: float, width: float) -> list[tuple[int, float]]:
    """Return the bins that an interval touches, each with its fraction of the interval; together 1."""
    first, last = (min(BINS - 1, int(moment / width)) for moment in (start, end))
    if first == last or end <= start:
        return [(last, 1.0)]
    found = []
    for number in range(first, last + 1):
        low = max(start, number * width)
        high = end if number == last else min(end, (number + 1) * width)
        found.append((number, (high - low) / (end - start)))
    return found
