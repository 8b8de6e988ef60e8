"""Counters of this process: running totals by name, which executors collect and export.

Names are ``rows.STATUS``, ``stage_seconds.STAGE`` and ``retries.REASON``; for forward passes ``passes``, ``entries``
(batch entries), ``places`` (batch capacity) and ``pass_seconds``; and ``fetched_bytes`` of weights.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LIFE: Final = "life_seconds"  # lifetime of an editor's process since loading began; its owner counts it
_totals: Final[Counter[str]] = Counter()
_lock: Final = threading.Lock()


def count(name: str, amount: float = 1) -> None:
    """Add to a total. May be called from any thread."""
    with _lock:
        _totals[name] += amount  # type: ignore[assignment]


def count_pass(entries: int, places: int, seconds: float) -> None:
    """Count a forward pass over ``entries``, padded to ``places``."""
    for name, amount in {"passes": 1, "entries": entries, "places": places, "pass_seconds": seconds}.items():
        count(name, amount)


def totals() -> dict[str, float]:
    """Return all totals of this process."""
    with _lock:
        return dict(_totals)


def since(before: Mapping[str, float]) -> dict[str, float]:
    """Return how much the totals have grown since they were ``before``."""
    return {name: total - before.get(name, 0) for name, total in totals().items() if total != before.get(name, 0)}


def timed(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that its wall-clock seconds are added to a total."""

    def wrap(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def within(*args: P.args, **kwargs: P.kwargs) -> T:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                count(name, time.perf_counter() - began)

        return within

    return wrap


def ratio(part: float, whole: float) -> float | None:
    """Return ``part / whole``, or None if ``whole`` is zero."""
    return part / whole if whole else None


def as_record(summed: Mapping[str, float]) -> dict[str, Any]:
    """Return totals of one or more processes as written to a run's records: grouped, with two derived ratios."""
    record: dict[str, Any] = {"rows": {}, "stage_seconds": {}, "retries": {}}
    for name, value in sorted(summed.items()):
        group, dot, rest = name.partition(".")
        (record[group] if dot else record)[rest or group] = round(value, 3)
    record["gpu_busy_ratio"] = ratio(summed.get("pass_seconds", 0), summed.get(LIFE, 0))
    record["batch_fill_ratio"] = ratio(summed.get("entries", 0), summed.get("places", 0))
    return record
