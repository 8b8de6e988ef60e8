"""A run's pace over its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retouch.outputs.report.timeline import timeline

BEGAN = datetime(2026, 11, 27, tzinfo=UTC)


def event(kind: str, seconds: float, **facts: Any) -> dict[str, Any]:
    return {"time": (BEGAN + timedelta(seconds=seconds)).isoformat(), "event": kind, **facts}


BLOCKS = st.lists(st.tuples(st.floats(0.01, 100), st.integers(1, 9), st.floats(0, 20)), min_size=1, max_size=9)


@settings(deadline=None)
@given(BLOCKS, st.integers(1, 7))
def test_every_row_is_counted_once_whatever_the_pieces(blocks: list[tuple[float, int, float]], bins: int) -> None:
    blocks = sorted(blocks)
    told = [event("answered", at, rows=rows, edit_seconds=work) for at, rows, work in blocks]
    found = timeline([event("started", 0), event("crew", 0, actors=2), *told], bins)
    assert found is not None
    width = found.seconds / bins
    assert sum(rate * width for rate in found.rows_per_second) == pytest.approx(sum(rows for _, rows, _ in blocks))
    assert all(0 <= share <= 1 for share in found.busy)
    assert len(found.busy) == bins


def test_devices_are_busy_where_blocks_say_so() -> None:
    told = [event("answered", 10.0, rows=4, edit_seconds=5.0)]
    found = timeline([event("started", 0), event("crew", 1, actors=1), *told], 10)
    assert found is not None
    assert found.busy == pytest.approx([0.0] * 5 + [1.0] * 5)
    assert found.seconds == 10.0


def test_the_latest_call_that_answered_something_counts_and_an_older_diary_tells_no_share() -> None:
    first = [event("started", 0), event("answered", 5, rows=1)]
    second = [event("started", 100), event("answered", 110, rows=20), event("finished", 111)]
    nothing = [event("started", 200), event("finished", 201)]
    found = timeline([*first, *second, *nothing], 2)
    assert found is not None
    assert found.seconds == 10
    assert found.busy == ()
    assert sum(found.rows_per_second) * 5 == pytest.approx(20)


def test_a_diary_without_answers_has_no_timeline() -> None:
    assert timeline([]) is None
    assert timeline([event("started", 0), event("stopped", 3)]) is None
