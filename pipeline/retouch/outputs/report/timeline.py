"""How fast a run went and how busy its devices were, over its time, from its diary. Knows no row and no page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

BINS: Final = 60


@dataclass(frozen=True)
class Timeline:
    """The latest call of a run that answered rows, in equal pieces of its time."""

    seconds: float  # from its start to its last answered block
    rows_per_second: tuple[float, ...]
    busy: tuple[float, ...]  # share of the actors' time spent in edits, 0..1; empty where the diary does not tell
    actors: int


def timeline(events: Sequence[Mapping[str, Any]], bins: int = BINS) -> Timeline | None:
    """The timeline of a diary; None where no call answered a row.

    A block's rows count from its worker's answer before to its own: a run of few blocks has no pauses between them.
    """
    call = _latest(events)
    if not call:
        return None
    began = _time(call[0])
    answered = [event for event in call if event["event"] == "answered"]
    seconds = max(_time(answered[-1]) - began, 1e-3)
    actors = next((int(event["actors"]) for event in call if event["event"] == "crew"), 1)
    width = seconds / bins
    rows, busy = [0.0] * bins, [0.0] * bins
    for event in answered:
        end, work = _time(event) - began, float(event.get("edit_seconds") or 0.0)
        start = max(0.0, end - max(work, width))
        for number, share in _shares(start, end, width, bins):
            rows[number] += event["rows"] * share
            busy[number] += work * share
    tells = any("edit_seconds" in event for event in answered)
    return Timeline(
        seconds=seconds,
        rows_per_second=tuple(count / width for count in rows),
        busy=tuple(min(1.0, work / (width * actors)) for work in busy) if tells else (),
        actors=actors,
    )


def _latest(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The diary of the latest call that answered something, from its start on."""
    calls: list[list[Mapping[str, Any]]] = []
    for event in events:
        if event["event"] == "started" or not calls:
            calls.append([])
        calls[-1].append(event)
    told = [call for call in calls if any(event["event"] == "answered" for event in call)]
    return told[-1] if told else []


def _shares(start: float, end: float, width: float, bins: int) -> list[tuple[int, float]]:
    """The pieces of time that a stretch lies in, each with its share of the stretch; together 1."""
    first, last = (min(bins - 1, int(moment / width)) for moment in (start, end))
    if first == last or end <= start:
        return [(last, 1.0)]
    found = []
    for number in range(first, last + 1):
        low = max(start, number * width)
        high = end if number == last else min(end, (number + 1) * width)
        found.append((number, (high - low) / (end - start)))
    return found


def _time(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
