"""Totals are of the process, from all threads; records have groups and the two shares."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from retouch import telemetry as figures


def test_no_thread_loses_a_count() -> None:
    before = figures.totals()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: figures.count("rows.success"), range(400)))
    assert figures.since(before) == {"rows.success": 400}


def test_what_raises_is_timed_all_the_same() -> None:
    @figures.timed("stage_seconds.decode")
    def fail() -> None:
        raise ValueError

    before = figures.totals()
    with pytest.raises(ValueError):  # noqa: PT011 (its own)
        fail()
    assert set(figures.since(before)) == {"stage_seconds.decode"}


def test_a_record_groups_totals_and_has_the_shares() -> None:
    passes = {"entries": 6, "places": 8, "pass_seconds": 2.5, figures.LIFE: 10.0}
    summed = {"rows.success": 3, "retries.storage": 1, **passes}
    assert figures.as_record(summed) == {
        "rows": {"success": 3},
        "stage_seconds": {},
        "retries": {"storage": 1},
        "entries": 6,
        "places": 8,
        "pass_seconds": 2.5,
        "life_seconds": 10.0,
        "gpu_busy_ratio": 0.25,
        "batch_fill_ratio": 0.75,
    }
    assert figures.as_record({})["gpu_busy_ratio"] is None
