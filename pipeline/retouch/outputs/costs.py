"""What the runs of an output have cost, from its event log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from retouch.jobs.prices import Prices
from retouch.outputs.event_log import Call


@dataclass(frozen=True)
class Spending:
    """Device-seconds by the device's name, and their cost where it is known."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    cost: float | None = 0.0  # at the recorded price, else at today's; None where a device has no price
    currency: str = ""


def total_spending(calls: Sequence[Call], prices: Prices) -> Spending:
    """Add up what all calls on an output spent.

    Args:
        calls: from the output's event log.
        prices: for calls that recorded no cost in this currency.
    """
    seconds: dict[str, float] = defaultdict(float)
    cost: float | None = 0.0
    for spent in (call.spent for call in calls if call.spent is not None):
        for device, amount in spent["seconds"].items():
            seconds[device] += amount
        known = spent["cost"] if spent.get("currency") == prices.currency else None
        known = cost_of(spent["seconds"], prices) if known is None else known
        cost = None if cost is None or known is None else cost + known
    return Spending(dict(seconds), cost, prices.currency)


def cost_of(seconds: Mapping[str, float], prices: Prices) -> float | None:
    """Return what these device-seconds cost; None where a device has no price."""
    costs = [prices.cost(device, amount / 3600) for device, amount in seconds.items()]
    return None if None in costs else sum(cost for cost in costs if cost is not None)
