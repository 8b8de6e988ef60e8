"""A run's pace over its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.outputs.event_log import parse_calls
from retouch.outputs.report.timeline import BINS, Timeline, make_timeline

BEGAN = datetime(2026, 11, 27, tzinfo=UTC)


def event(kind: str, seconds: float, **facts: Any) -> dict[str, Any]:
    return {"time": (BEGAN + timedelta(seconds=seconds)).isoformat(), "event": kind, **facts}


def timeline(*events: dict[str, Any]) -> Timeline | None:
    return make_timeline(parse_calls(events))


BLOCKS = st.lists(st.tuples(st.floats(0.01, 100), st.integers(1, 9), st.floats(0, 20)), min_size=1, max_size=9)


@settings(deadline=None)
@given(BLOCKS)
def test_every_row_is_counted_once_whatever_the_bins(blocks: list[tuple[float, int, float]]) -> None:
    answered = [event("answered", at, rows=rows, edit_seconds=work) for at, rows, work in sorted(blocks)]
    found = timeline(event("started", 0), event("crew", 0, actors=2), *answered)
    assert found is not None
    width = found.seconds / BINS
    assert sum(rate * width for rate in found.rows_per_second) == pytest.approx(sum(rows for _, rows, _ in blocks))
    assert all(0 <= fraction <= 1 for fraction in found.busy)
    assert len(found.busy) == BINS


def test_devices_are_busy_while_a_block_was_in_forward_passes() -> None:
    found = timeline(event("started", 0), event("crew", 1, actors=1), event("answered", 10.0, rows=4, edit_seconds=5.0))
    assert found is not None
    assert found.busy == pytest.approx([0.0] * (BINS // 2) + [1.0] * (BINS // 2))
    assert found.seconds == 10.0


def test_the_latest_call_with_rows_counts_and_an_older_log_has_no_busy_fraction() -> None:
    first = [event("started", 0), event("answered", 5, rows=1)]
    second = [event("started", 100), event("answered", 110, rows=20), event("finished", 111)]
    nothing = [event("started", 200), event("finished", 201)]
    found = timeline(*first, *second, *nothing)
    assert found is not None
    assert found.seconds == 10
    assert found.busy == ()
    assert sum(found.rows_per_second) * 10 / BINS == pytest.approx(20)


def test_a_log_without_rows_has_no_timeline() -> None:
    assert timeline() is None
    assert timeline(event("started", 0), event("stopped", 3)) is None
