"""A run's meter: what it costs while it runs, and the stop at ``max_cost``.

Paid for are the actors, from the moment when the cluster is there until the run ends: device-seconds are GPU-seconds
(half a GPU counts half), or core-seconds where there are none.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from retouch.errors import ConfigError, OverCost
from retouch.execution.traces import Crew
from retouch.jobs.prices import Prices, unknown
from retouch.outputs.costs import Spending, cost_of

ALARM: Final = signal.SIGUSR1  # not Ctrl-C's, which shells let commands in the background ignore
UNKNOWN: Final = "a device that no worker has named yet"


class Meter:
    """What this run costs while it goes.

    Args:
        prices: the table in force.
        before: what earlier runs of the output cost.
        limit: ``max_cost``; None only counts.
        now: a clock in seconds.
    """

    def __init__(
        self,
        prices: Prices,
        before: Spending | None = None,
        limit: float | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.prices, self.before, self.limit, self._now = prices, before or Spending(), limit, now
        self._crew: Crew | None = None
        self._since = 0.0
        self._actors, self._until_now = 0, 0.0  # how many there are, and their seconds before they were so many
        self._places: set[tuple[str, int]] = set()  # workers that stand in no other's place
        self._devices: dict[tuple[str, int], str] = {}  # worker to what it runs on
        self._alarm: threading.Timer | None = None
        self._lock, self._guarding = threading.Lock(), False

    def met(self, crew: Crew) -> None:
        """The cluster is there: from now on it costs.

        Raises:
            ConfigError: there is a limit, and the device has no price.
        """
        self._crew, self._since, self._actors = crew, self._now(), crew.actors
        if self.limit is None:
            return
        rate = cost_of(self._split(self._actors), self.prices)
        if rate is None or self.before.cost is None:
            nameless = [
                name for name in (*self._split(self._actors), *self.before.seconds) if self.prices.of(name) is None
            ]
            raise ConfigError(f"max_cost is {self.limit:g}, and {unknown(nameless[0])}; or take max_cost out")
        if rate and self._guarding:
            self._alarm = threading.Timer((self.limit - self.before.cost) / rate, self._ring)
            self._alarm.daemon = True
            self._alarm.start()

    def saw(self, host: str, pid: int, device: str, *, replaced: bool = False) -> None:
        """A worker named its device. One more than there were, and in no other's place, joined the pool."""
        self._devices[host, pid] = device
        if not replaced:
            self._places.add((host, pid))
        if len(self._places) > self._actors:
            now = self._now()
            self._until_now += (now - self._since) * self._actors
            self._since, self._actors = now, len(self._places)

    @property
    def seconds(self) -> dict[str, float]:
        """Device-seconds of this run by device; of several devices, each counts as often as it has workers."""
        if self._crew is None:
            return {}
        return self._split(self._until_now + (self._now() - self._since) * self._actors)

    @property
    def cost(self) -> float | None:
        """Of this run; None where a price is missing."""
        return cost_of(self.seconds, self.prices)

    @property
    def total(self) -> float | None:
        """Of all runs of the output."""
        return None if self.cost is None or self.before.cost is None else self.cost + self.before.cost

    @property
    def is_over(self) -> bool:
        """Whether the limit is spent."""
        return self.limit is not None and self.total is not None and self.total >= self.limit

    def facts(self) -> dict[str, Any]:
        """Return the ``spent`` field of the event log, which ``costs.total_spending`` adds up."""
        return {
            "seconds": {device: round(amount, 3) for device, amount in self.seconds.items()},
            "cost": self.cost,
            "currency": self.prices.currency,
        }

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """For the time of the work: where the limit is spent before a block is done, the main thread is interrupted.

        Raises:
            OverCost: the limit is spent, by now or before anything was begun.
        """
        if self.is_over:
            raise OverCost("nothing was begun")
        self._guarding = threading.current_thread() is threading.main_thread()
        handler = signal.signal(ALARM, _interrupt) if self._guarding else None
        try:
            yield
        except KeyboardInterrupt:
            if self.is_over:
                raise OverCost("interrupted") from None
            raise
        finally:
            with self._lock:
                watched, self._guarding = self._guarding, False
            if self._alarm is not None:
                self._alarm.cancel()
            if watched:
                signal.signal(ALARM, handler)

    def over(self, done: int, left: int, answered: int, total: int) -> OverCost:
        """The error to end with.

        Args:
            done: rows that this run answered.
            left: rows without an answer.
            answered: rows with an answer, of all runs.
            total: rows asked for.
        """
        money = self.prices.currency
        rate = (self.cost or 0.0) / max(done, 1)
        rest = f"at this run's rate the other {left} need about {rate * left:.4g} {money} more; "
        return OverCost(
            f"stopped at max_cost {self.limit:g} {money}: {self.total:.4g} {money} spent by all runs of this output, "
            f"{answered} of {total} rows answered; {rest if done else ''}"
            "raise max_cost, and the same command goes on"
        )

    def _split(self, actor_seconds: float) -> dict[str, float]:
        assert self._crew is not None
        paid = actor_seconds * self._crew.each
        named = list(self._devices.values()) or [self._crew.device or UNKNOWN]
        return {device: paid * named.count(device) / len(named) for device in dict.fromkeys(named)}

    def _ring(self) -> None:
        with self._lock:
            if self._guarding:
                signal.pthread_kill(threading.main_thread().ident or 0, ALARM)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
