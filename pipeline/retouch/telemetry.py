"""What this process has done so far: running totals by name, for whoever exports them. Knows no exporter and no job.

Names are ``rows.STATUS``, ``stage_seconds.STAGE``, ``retries.REASON``; of an engine's passes ``passes``, ``entries``
(what was in them), ``places`` (what would have had room), ``pass_seconds``; and ``fetched_bytes`` of weights.
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

LIFE: Final = "life_seconds"  # of an editor's process, from the start of its loading; told by whoever owns one
_totals: Final[Counter[str]] = Counter()
_lock: Final = threading.Lock()


def count(name: str, amount: float = 1) -> None:
    """Add to a total; from any thread."""
    with _lock:
        _totals[name] += amount  # type: ignore[assignment]


def count_pass(entries: int, places: int, seconds: float) -> None:
    """An engine's pass over ``entries``, padded to ``places``."""
    for name, amount in {"passes": 1, "entries": entries, "places": places, "pass_seconds": seconds}.items():
        count(name, amount)


def totals() -> dict[str, float]:
    """All totals of this process."""
    with _lock:
        return dict(_totals)


def since(before: Mapping[str, float]) -> dict[str, float]:
    """What came to the totals after they were ``before``."""
    return {name: total - before.get(name, 0) for name, total in totals().items() if total != before.get(name, 0)}


def timed(name: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function whose wall-clock seconds are added to a total."""

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
    """A share; None of nothing."""
    return part / whole if whole else None


def as_record(summed: Mapping[str, float]) -> dict[str, Any]:
    """Totals of one or many processes as they stand in a run's records: groups, and the two shares that matter."""
    record: dict[str, Any] = {"rows": {}, "stage_seconds": {}, "retries": {}}
    for name, value in sorted(summed.items()):
        group, dot, rest = name.partition(".")
        (record[group] if dot else record)[rest or group] = round(value, 3)
    record["gpu_busy_ratio"] = ratio(summed.get("pass_seconds", 0), summed.get(LIFE, 0))
    record["batch_fill_ratio"] = ratio(summed.get("entries", 0), summed.get("places", 0))
    return record
