"""Properties of a forecast that hold for every job, probe and number of actors."""

from __future__ import annotations

import heapq
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from retouch.execution.planning.forecast import Forecast, Measured, Span, Start, Work, forecast, makespan
from retouch.jobs.prices import Prices

PRICES = Prices.model_validate({"currency": "USD", "devices": [{"names": ["cpu"], "per_hour": 2.0}]})
START = Start(cluster=4.0, load=20.0, warm_up=1.0, finish=2.0)


def measured(**changes: Any) -> Measured:
    facts: dict[str, Any] = {
        "device": "cpu",
        "actors": 2,
        "each": 1.0,
        "pool": 2,
        "start": START,
        "passes": {(0, 0): (8.0, 8.2, 7.8)},
        "decode": {(0, 0): 0.1},
        "write": {(0, 0): 0.2},
        "bytes_a_megapixel": 1e6,
        "row_bytes": 300.0,
        "rows": 12,
        "failed": 0,
        "seconds": 50.0,
    }
    return Measured(**{**facts, **changes})


def work(rows: int, rows_per_block: int = 4, **changes: Any) -> Work:
    facts: dict[str, Any] = {
        "kinds": (0,) * rows,
        "shares": {(0, 0): 1.0} if rows else {},
        "rows_per_block": lambda actors: rows_per_block,
        "entries_per_row": 4,
        "entries_per_pass": 8,
        "megapixels": 0.5,
    }
    return Work(**{**facts, **changes})


def figures(found: Forecast) -> list[Span]:
    return [span for one in found.predictions for span in (one.wall, one.device_hours, one.money) if span is not None]


def test_a_job_without_rows_takes_nothing_and_costs_nothing() -> None:
    found = forecast(work(0), None, [1, 8], PRICES)
    assert [one.actors for one in found.predictions] == [1, 8]
    assert figures(found) == [Span(0.0, 0.0, 0.0)] * 6
    assert found.image_bytes == found.table_bytes == found.edit_seconds == 0.0


def test_the_forecast_of_a_plain_job_equals_a_calculation_by_hand() -> None:
    """32 rows of 4 candidates are 16 passes of 8 entries; two actors do 8 each."""
    (found,) = forecast(work(32), measured(), [2], PRICES).predictions
    assert found.wall.value == pytest.approx(4 + 20 + 1 + 8 * 8 + 2)
    assert found.device_hours.value == pytest.approx(2 * (20 + 1 + 64 + 2) / 3600), "Ray's start is not paid for"
    assert found.idle_hours == pytest.approx(0.0)
    assert found.money is not None
    assert found.money.value == pytest.approx(2.0 * found.device_hours.value)
    whole = forecast(work(32), measured(), [2], PRICES)
    assert whole.image_bytes == pytest.approx(32 * 0.5 * 1e6)
    assert whole.table_bytes == pytest.approx(32 * 300)
    assert (whole.decode_seconds, whole.write_seconds) == (pytest.approx(3.2), pytest.approx(6.4))
    assert whole.edit_seconds == pytest.approx(16 * 8)


def test_the_last_blocks_leave_actors_idle_and_that_is_paid_for() -> None:
    (found,) = forecast(work(36), measured(), [2], PRICES).predictions
    assert found.wall.value == pytest.approx(4 + 20 + 1 + 10 * 8 + 2), "nine blocks of two passes: five and four"
    assert found.idle_hours == pytest.approx(2 * 8 / 3600)


def test_more_actors_than_blocks_are_not_started_and_not_paid_for() -> None:
    eight, hundred = forecast(work(32), measured(), [8, 100], PRICES).predictions
    assert (eight.wall, eight.device_hours) == (hundred.wall, hundred.device_hours)


def test_a_pass_that_is_not_full_takes_as_long_as_a_full_one() -> None:
    assert forecast(work(1), measured(), [1], PRICES).edit_seconds == pytest.approx(8.0)
    assert forecast(work(2), measured(), [1], PRICES).edit_seconds == pytest.approx(8.0)
    many = work(1, entries_per_row=20)
    assert forecast(many, measured(), [1], PRICES).edit_seconds == pytest.approx(3 * 8.0)


def test_kinds_do_not_share_passes_and_each_has_its_own_seconds() -> None:
    mixed = work(4, kinds=(0, 1, 0, 1), shares={(0, 0): 0.5, (1, 0): 0.5})
    both = measured(passes={(0, 0): (8.0,), (1, 0): (80.0,)})
    assert forecast(mixed, both, [1], PRICES).edit_seconds == pytest.approx(88.0)


def test_what_was_not_probed_is_estimated_from_the_nearest_and_listed() -> None:
    rows = work(4, shares={(0, 0): 0.5, (0, 2): 0.25, (1, 0): 0.25}, kinds=(0, 0, 0, 1))
    found = forecast(rows, measured(), [1], PRICES)
    assert found.guessed == ((0, 2), (1, 0))
    assert found.decode_seconds == pytest.approx(4 * (0.75 * 0.1 + 0.25 * 0.4)), "in proportion to the size"
    assert found.edit_seconds == pytest.approx(2 * 8 + 8), "at the network's size, whatever the source's"


def test_in_one_process_decoding_and_writing_wait_for_the_editor() -> None:
    parallel, sequential = (
        forecast(work(32, sequential=turn), measured(), [1], PRICES).predictions[0] for turn in (0, 1)
    )
    assert sequential.wall.value - parallel.wall.value == pytest.approx(32 * 0.3)


def test_rows_that_would_fail_are_not_edited() -> None:
    whole, half = (forecast(work(32, edited=share), measured(), [2], PRICES) for share in (1.0, 0.5))
    assert half.edit_seconds == pytest.approx(whole.edit_seconds / 2)
    assert half.image_bytes == pytest.approx(whole.image_bytes / 2)


def test_a_device_without_a_price_gets_no_money() -> None:
    assert [one.money for one in forecast(work(32), measured(device="odd"), [1, 2], PRICES).predictions] == [None] * 2


def test_half_a_gpu_an_actor_is_half_the_price() -> None:
    whole, half = (forecast(work(32), measured(each=each), [2], PRICES).predictions[0] for each in (1.0, 0.5))
    assert half.wall == whole.wall
    assert half.device_hours.value == pytest.approx(whole.device_hours.value / 2)


def test_passes_that_differ_widen_the_bounds() -> None:
    alike, apart = (
        forecast(work(64), measured(passes={(0, 0): some}), [2], PRICES).predictions[0].wall
        for some in ((8.0, 8.0, 8.0), (4.0, 8.0, 12.0))
    )
    assert alike.value == pytest.approx(apart.value)
    assert apart.high > alike.high
    single = forecast(work(64), measured(passes={(0, 0): (8.0,)}), [2], PRICES).predictions[0].wall
    assert single.high > alike.high, "one pass alone is weak evidence"


seconds = st.floats(0.0, 1e4, allow_nan=False)
probes = st.builds(
    lambda passes, start, each: measured(passes={(0, 0): tuple(passes)}, start=start, each=each),
    st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=5),
    st.builds(Start, seconds, seconds, seconds, seconds),
    st.sampled_from([0.25, 1.0]),
)


@given(probes, st.integers(0, 300), st.integers(1, 70), st.integers(1, 9), st.lists(st.integers(1, 80), min_size=1))
def test_every_estimate_is_within_its_bounds_and_none_is_negative(
    probe: Measured, rows: int, block: int, candidates: int, actors: list[int]
) -> None:
    found = forecast(work(rows, block, entries_per_row=candidates), probe, actors, PRICES)
    for span in figures(found):
        assert 0.0 <= span.low <= span.value <= span.high
    for one in found.predictions:
        assert -1e-6 <= one.idle_hours <= one.device_hours.value + 1e-6


@given(probes, st.integers(1, 300), st.integers(1, 70), st.integers(1, 80))
def test_with_more_rows_nothing_gets_less(probe: Measured, rows: int, block: int, actors: int) -> None:
    fewer, more = (forecast(work(n, block), probe, [actors], PRICES).predictions[0] for n in (rows - 1, rows))
    assert more.wall.value >= fewer.wall.value * (1 - 1e-12)
    assert more.device_hours.value >= fewer.device_hours.value * (1 - 1e-12)


@given(probes, st.integers(1, 300), st.integers(1, 70), st.integers(1, 80))
def test_with_more_actors_it_takes_no_longer(probe: Measured, rows: int, block: int, actors: int) -> None:
    few, many = forecast(work(rows, block), probe, [actors, actors + 1], PRICES).predictions
    assert many.wall.value <= few.wall.value * (1 + 1e-12)


@given(st.lists(st.floats(0.0, 1e3), max_size=40), st.integers(1, 50))
def test_the_end_is_between_an_even_share_and_one_block_more(blocks: list[float], actors: int) -> None:
    found = makespan(blocks, actors)
    even = sum(blocks) / actors
    assert even * (1 - 1e-9) <= found <= even + max(blocks, default=0.0) * (1 + 1e-9)


def test_the_simulation_gives_each_block_to_the_actor_that_is_free_first() -> None:
    blocks = [5.0, 1.0, 1.0, 4.0, 2.0]
    free = [(0.0, actor) for actor in range(2)]
    for seconds in blocks:
        at, actor = heapq.heappop(free)
        heapq.heappush(free, (at + seconds, actor))
    assert makespan(blocks, 2) == max(at for at, _ in free) == 7.0
