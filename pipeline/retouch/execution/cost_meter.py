"""What a run costs while it runs, and the stop at ``max_cost``.

Actors are paid for from the moment when the cluster is ready until the run ends: device-seconds are GPU-seconds (half a
GPU counts half), or core-seconds if there are no GPUs.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from retouch.errors import ConfigError, OverCost
from retouch.execution.tracing import WorkerPool
from retouch.jobs.prices import Prices, unknown
from retouch.outputs.costs import Spending, cost_of

ALARM: Final = signal.SIGUSR1  # not SIGINT, which shells let commands in the background ignore
UNKNOWN: Final = "a device that no worker has reported yet"


class Meter:
    """The cost meter of one run.

    Args:
        prices: the table in force.
        before: what earlier runs on the output cost.
        limit: ``max_cost``; None for no limit.
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
        self._pool: WorkerPool | None = None
        self._since = 0.0
        self._actors, self._until_now = 0, 0.0  # how many there are, and the actor-seconds until their number changed
        self._first_workers: set[tuple[str, int]] = set()  # workers that replaced no other
        self._devices: dict[tuple[str, int], str] = {}
        self._alarm: threading.Timer | None = None
        self._lock, self._guarding = threading.Lock(), False

    def on_cluster_ready(self, pool: WorkerPool) -> None:
        """Start counting the cost of the pool.

        Raises:
            ConfigError: there is a limit, and the device has no price.
        """
        self._pool, self._since, self._actors = pool, self._now(), pool.actors
        if self.limit is None:
            return
        rate = cost_of(self._split(self._actors), self.prices)
        if rate is None or self.before.cost is None:
            unpriced = [
                name for name in (*self._split(self._actors), *self.before.seconds) if self.prices.of(name) is None
            ]
            raise ConfigError(f"max_cost is {self.limit:g}, and {unknown(unpriced[0])}; or remove max_cost")
        if rate and self._guarding:
            self._alarm = threading.Timer((self.limit - self.before.cost) / rate, self._send_alarm)
            self._alarm.daemon = True
            self._alarm.start()

    def on_worker(self, host: str, pid: int, device: str, *, replaced: bool = False) -> None:
        """Record a worker and its device. If it replaced no other and exceeds the pool's size, the pool has grown."""
        self._devices[host, pid] = device
        if not replaced:
            self._first_workers.add((host, pid))
        if len(self._first_workers) > self._actors:
            now = self._now()
            self._until_now += (now - self._since) * self._actors
            self._since, self._actors = now, len(self._first_workers)

    @property
    def seconds(self) -> dict[str, float]:
        """Device-seconds of this run by device, in proportion to the workers on each."""
        if self._pool is None:
            return {}
        return self._split(self._until_now + (self._now() - self._since) * self._actors)

    @property
    def cost(self) -> float | None:
        """Cost of this run; None if a price is missing."""
        return cost_of(self.seconds, self.prices)

    @property
    def total(self) -> float | None:
        """Cost of all runs on the output."""
        return None if self.cost is None or self.before.cost is None else self.cost + self.before.cost

    @property
    def is_spent(self) -> bool:
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
        """Interrupt the main thread when the limit is spent, even while no block is finished.

        Raises:
            OverCost: the limit is spent.
        """
        if self.is_spent:
            raise OverCost("nothing was started")
        self._guarding = threading.current_thread() is threading.main_thread()
        handler = signal.signal(ALARM, _interrupt) if self._guarding else None
        try:
            yield
        except KeyboardInterrupt:
            if self.is_spent:
                raise OverCost("interrupted") from None
            raise
        finally:
            with self._lock:
                guarded, self._guarding = self._guarding, False
            if self._alarm is not None:
                self._alarm.cancel()
            if guarded:
                signal.signal(ALARM, handler)

    def error(self, done: int, left: int, total: int) -> OverCost:
        """Return the error that ends the run.

        Args:
            done: rows that this run finished.
            left: rows without a result.
            total: rows of the job.
        """
        money = self.prices.currency
        rate = (self.cost or 0.0) / max(done, 1)
        rest = f"at this run's rate the other {left} need about {rate * left:.4g} {money} more; " if done else ""
        return OverCost(
            f"stopped at max_cost {self.limit:g} {money}: all runs on this output spent {self.total:.4g} {money}, "
            f"{total - left} of {total} rows done; {rest}raise max_cost and run the same command again to resume"
        )

    def _split(self, actor_seconds: float) -> dict[str, float]:
        assert self._pool is not None
        paid = actor_seconds * self._pool.each
        named = list(self._devices.values()) or [self._pool.device or UNKNOWN]
        return {device: paid * named.count(device) / len(named) for device in dict.fromkeys(named)}

    def _send_alarm(self) -> None:
        with self._lock:
            if self._guarding:
                signal.pthread_kill(threading.main_thread().ident or 0, ALARM)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
