"""The parts of a run's time add up, and the first edit's begin is told from its block."""

from __future__ import annotations

import pyarrow as pa
import pytest
from retouch.execution import timing
from retouch.execution.timing import PARTS, Stopwatch, line
from retouch.execution.traces import WORKER


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock says, which the test sets."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(timing.time, "time", lambda: now[0] + 1e9)
    return now


def block(turn: int, began: float) -> pa.Table:
    return pa.table({WORKER: [{"turn": turn, "began": began + 1e9}] * 2})


def test_the_parts_of_a_run_add_up_to_all_of_it(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] = 102.0
    watch.planned()
    clock[0] = 105.0
    watch.met()
    clock[0] = 116.0
    watch.saw(block(0, 111.5))
    clock[0] = 117.0
    watch.saw(block(0, 113.5))  # another worker's, which began later
    clock[0] = 130.0
    watch.saw(block(1, 101.0))
    clock[0] = 131.5
    parts = watch.parts()
    assert parts == {"plan": 2.0, "start": 3.0, "load": 6.5, "edit": 18.5, "end": 1.5, "first_image": 16.0}
    assert sum(parts[part] for part in PARTS) == 31.5
    said = "time: plan 2.0 s, start 3.0 s, load 6.5 s, first image after 16.0 s, edit 18.5 s, end 1.5 s"
    assert line(parts) == said


def test_a_run_that_has_nothing_left_to_do_has_neither_a_start_nor_a_first_image(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] = 101.0
    watch.planned()
    clock[0] = 103.0
    assert watch.parts() == {"plan": 1.0, "start": 0.0, "load": 0.0, "edit": 0.0, "end": 2.0}
    assert line(watch.parts()) == "time: plan 1.0 s, start 0.0 s, load 0.0 s, edit 0.0 s, end 2.0 s"
