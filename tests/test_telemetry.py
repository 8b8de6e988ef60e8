"""Totals are of the process, from all threads; records have groups and the two shares."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from retouch import telemetry


def test_no_thread_loses_a_count() -> None:
    before = telemetry.totals()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: telemetry.count("rows.success"), range(400)))
    assert telemetry.since(before) == {"rows.success": 400}


def test_what_raises_is_timed_all_the_same() -> None:
    @telemetry.timed("stage_seconds.decode")
    def fail() -> None:
        raise ValueError

    before = telemetry.totals()
    with pytest.raises(ValueError):  # noqa: PT011 (its own)
        fail()
    assert set(telemetry.since(before)) == {"stage_seconds.decode"}


def test_a_record_groups_totals_and_has_the_shares() -> None:
    passes = {"entries": 6, "places": 8, "pass_seconds": 2.5, telemetry.LIFE: 10.0}
    summed = {"rows.success": 3, "retries.storage": 1, **passes}
    assert telemetry.as_record(summed) == {
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
    assert telemetry.as_record({})["gpu_busy_ratio"] is None
