"""What a run costs: counted while it runs, stopped at its limit."""

from __future__ import annotations

import signal
import time

import pytest
from retouch.errors import ConfigError, OverCost
from retouch.execution.cost_meter import Meter
from retouch.execution.tracing import WorkerPool
from retouch.jobs.prices import Prices
from retouch.outputs.costs import Spending

PRICES = Prices.model_validate(
    {"currency": "USD", "devices": [{"names": ["cpu"], "per_hour": 3600}, {"names": ["big"], "per_hour": 7200}]}
)  # a dollar a core-second


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_counts_actors_by_what_each_takes_from_the_moment_when_the_cluster_is_there() -> None:
    clock = Clock()
    meter = Meter(PRICES, now=clock)
    clock.now = 50.0
    assert (meter.seconds, meter.cost) == ({}, 0.0)
    meter.on_cluster_ready(WorkerPool(4, 0.5, "cpu", 4))
    clock.now = 60.0
    assert (meter.seconds, meter.cost) == ({"cpu": 20.0}, 20.0)
    assert meter.facts() == {"seconds": {"cpu": 20.0}, "cost": 20.0, "currency": "USD"}


def test_what_the_workers_say_of_their_devices_stands_over_what_was_expected() -> None:
    clock = Clock()
    meter = Meter(PRICES, now=clock)
    meter.on_cluster_ready(WorkerPool(3, 1.0, None, 3))
    clock.now = 4.0
    assert meter.cost is None, "nobody has text yet what is paid for"
    for pid, device in enumerate(["big", "big", "cpu"]):
        meter.on_worker("host", pid, device)
    assert meter.seconds == {"big": 8.0, "cpu": 4.0}
    assert meter.cost == 8.0 * 2 + 4.0


def test_the_limit_holds_over_all_runs_together() -> None:
    clock = Clock()
    meter = Meter(PRICES, Spending({"cpu": 8.0}, 8.0, "USD"), limit=10.0, now=clock)
    meter.on_cluster_ready(WorkerPool(1, 1.0, "cpu", 1))
    clock.now = 1.9
    assert not meter.is_spent
    clock.now = 2.0
    assert meter.is_spent
    assert meter.total == 10.0
    text = str(meter.error(done=4, left=6, total=30))
    assert "max_cost 10 USD: all runs on this output spent 10 USD" in text
    assert "24 of 30 rows done" in text
    assert "the other 6 need about 3 USD more" in text, "at half a dollar a row"
    assert "to resume" in text


def test_a_limit_that_was_spent_before_begins_nothing() -> None:
    meter = Meter(PRICES, Spending({"cpu": 8.0}, 8.0, "USD"), limit=8.0)
    with pytest.raises(OverCost) as error, meter.guarding():
        pytest.fail("it was begun")
    assert error.value.exit_code == 3
    assert "need about" not in str(meter.error(0, 6, 6)), "nothing was done that could tell"


@pytest.mark.parametrize(
    ("before", "device"), [(Spending(), "odd"), (Spending({"odd": 1.0}, None, "USD"), "cpu"), (Spending(), None)]
)
def test_a_limit_without_a_price_is_refused_with_how_to_give_one(before: Spending, device: str | None) -> None:
    with pytest.raises(ConfigError, match="--prices or RETOUCH_PRICES") as error:
        Meter(PRICES, before, limit=5.0).on_cluster_ready(WorkerPool(1, 1.0, device, 1))
    assert error.value.exit_code == 2


def test_work_that_gives_no_sign_is_interrupted_when_the_limit_is_spent() -> None:
    def hangs() -> None:
        meter = Meter(PRICES, limit=0.05)
        with meter.guarding():
            meter.on_cluster_ready(WorkerPool(1, 1.0, "cpu", 1))
            while True:
                time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell has it for what it starts in the background
    try:
        with pytest.raises(OverCost):
            hangs()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_stays_ctrl_c_and_no_alarm_rings_after_the_work() -> None:
    def interrupted() -> None:
        meter = Meter(PRICES, limit=1e9)
        with meter.guarding():
            meter.on_cluster_ready(WorkerPool(1, 1.0, "cpu", 1))
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    early = Meter(PRICES, limit=0.01)
    with early.guarding():
        early.on_cluster_ready(WorkerPool(0, 1.0, "cpu", 1))
    early._send_alarm()  # would end this process, if it did anything
    assert early._alarm is None, "what costs nothing needs no alarm"


def test_a_pool_that_grew_costs_more_from_then_on_and_one_in_anothers_place_does_not() -> None:
    clock = Clock()
    meter = Meter(PRICES, now=clock)
    meter.on_cluster_ready(WorkerPool(1, 1.0, "cpu", 1))
    clock.now = 10.0
    meter.on_worker("a", 1, "cpu")
    meter.on_worker("a", 2, "cpu", replaced=True)
    assert meter.cost == 10.0
    meter.on_worker("b", 3, "cpu")  # a second node joined
    clock.now = 15.0
    assert meter.cost == 10.0 + 2 * 5.0
