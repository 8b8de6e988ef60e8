"""What the runs of an output cost together."""

from __future__ import annotations

from typing import Any

from retouch.jobs.prices import Prices
from retouch.outputs.costs import Spending, total_spending
from retouch.outputs.event_log import parse_calls

PRICES = Prices.model_validate({"currency": "USD", "devices": [{"names": ["cpu"], "per_hour": 3600}]})


def event(
    name: str, seconds: dict[str, float] | None = None, cost: float | None = None, currency: str = "USD", **facts: Any
) -> dict[str, Any]:
    spent = {"spent": {"seconds": seconds, "cost": cost, "currency": currency}} if seconds is not None else {}
    return {"time": "2026-11-27T00:00:00+00:00", "event": name, **facts, **spent}


def test_the_last_record_of_each_call_counts_and_a_killed_call_counts_up_to_its_last_block() -> None:
    events = [
        event("started"),
        event("answered", {"cpu": 5.0}, 5.0, rows=1),
        event("answered", {"cpu": 9.0}, 9.0, rows=1),  # killed here
        event("started"),
        event("answered", {"cpu": 2.0}, 2.0, rows=1),
        event("finished", {"cpu": 3.0}, 3.0),
    ]
    assert total_spending(parse_calls(events), PRICES) == Spending({"cpu": 12.0}, 12.0, "USD")


def test_a_call_keeps_its_recorded_price_and_one_without_a_price_gets_todays() -> None:
    events = [event("started"), event("stopped", {"cpu": 10.0}, 1.0), event("started"), event("stopped", {"cpu": 2.0})]
    assert total_spending(parse_calls(events), PRICES).cost == 1.0 + 2.0
    other = [event("started"), event("stopped", {"cpu": 10.0}, 99.0, "EUR")]
    assert total_spending(parse_calls(other), PRICES).cost == 10.0, "another currency's money is not added to ours"


def test_there_is_no_sum_if_one_price_is_missing() -> None:
    events = [event("started"), event("stopped", {"cpu": 1.0}, 1.0), event("started"), event("stopped", {"odd": 5.0})]
    assert total_spending(parse_calls(events), PRICES) == Spending({"cpu": 1.0, "odd": 5.0}, None, "USD")


def test_an_output_that_was_never_run_and_one_of_an_older_version_cost_nothing() -> None:
    assert total_spending([], PRICES).cost == 0.0
    calls = parse_calls([event("started"), event("stopped"), event("started"), event("finished")])
    assert total_spending(calls, PRICES).seconds == {}
