"""A run's figures as Ray's metrics, and on a board for the driver, who has them when the cluster is gone.

Every process tells its own totals after each block, and while it fetches weights. Ray exports the metrics on each
node's agent as ``ray_retouch_rows_total`` and so on.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from retouch import telemetry

BEAT: Final = 1.0  # seconds between two tellings while weights are fetched
ARRIVED: Final = 1.0  # seconds that a block's writer waits for the board, so that the driver's sums have its rows
PATIENCE: Final = 30.0  # seconds that the driver waits for the board at the end: without it, the run is none the worse
GROUPS: Final[Mapping[str, str]] = {"rows": "status", "stage_seconds": "stage", "retries": "reason"}  # and their tag

_told: dict[str, float] = {}  # totals of this process that Ray's metrics have
_before: dict[str, dict[str, float]] = {}  # totals of this process before each run
_lock: Final = threading.Lock()


class Board:
    """Each process's latest totals of one run. An actor of its own, which asks for no CPU."""

    def __init__(self) -> None:
        self._totals: dict[str, Mapping[str, float]] = {}

    def post(self, who: str, totals: Mapping[str, float]) -> None:
        """Take a process's totals in the place of those it told before."""
        self._totals[who] = totals

    def sums(self) -> dict[str, float]:
        """Totals of all processes."""
        summed: Counter[str] = Counter()
        for totals in self._totals.values():
            summed.update(totals)
        return dict(summed)


@dataclass(frozen=True)
class Reporter:
    """What a worker needs to tell its figures; goes with its tasks."""

    job: str
    run: str  # tells two runs of one driver apart
    board: Any  # handle of a Board

    def report(self, life: float | None = None, arrived: float = 0.0) -> None:
        """Tell what this process has done. Never raises for it: figures are no part of the work.

        Args:
            life: seconds since an editor's process began to load.
            arrived: seconds to wait, at most, until the board has it.
        """
        import ray

        try:
            ray.wait([self._report(life)], timeout=arrived)
        except Exception:  # Ray's metrics or its board out of reach
            return

    def beat(self, _bytes: int = 0) -> None:
        """Tell it if a while has passed: for whoever counts bytes."""
        if _due():
            self.report()

    def _report(self, life: float | None) -> Any:
        import ray

        with _lock:
            before = _before.setdefault(self.run, dict(_told))
            new, mine = telemetry.since(_told), telemetry.since(before)
            _told.update(telemetry.totals())
        for name, amount in new.items():
            group, dot, what = name.partition(".")
            if dot and group in GROUPS and amount > 0:
                _counter(group).inc(amount, tags={"job": self.job, GROUPS[group]: what})
        if life is not None:
            mine[telemetry.LIFE] = life
        shares = {"gpu_busy_ratio": ("pass_seconds", telemetry.LIFE), "batch_fill_ratio": ("entries", "places")}
        for name, (part, whole) in shares.items():
            share = telemetry.ratio(mine.get(part, 0), mine.get(whole, 0))
            if share is not None and life is not None:
                _gauge(name).set(share, tags={"job": self.job})
        return self.board.post.remote(ray.get_runtime_context().get_worker_id(), mine)


@contextlib.contextmanager
def reporting(job: str, summed: dict[str, float] | None) -> Iterator[Reporter]:
    """A reporter with a board of its own near the driver, for the time of a run.

    Args:
        job: its name.
        summed: gets what all processes have told, in the end; nothing where the board is gone by then.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    where: dict[str, Any] = {}
    if not ray.util.client.ray.is_connected():  # a driver behind ray:// is on no node
        node = ray.get_runtime_context().get_node_id()
        where["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
    board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, **where).remote()
    try:
        yield Reporter(job, secrets.token_hex(8), board)
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            (summed if summed is not None else {}).update(ray.get(board.sums.remote(), timeout=PATIENCE))
    finally:
        ray.kill(board)


_DESCRIPTIONS: Final = {
    "rows": "Rows answered.",
    "stage_seconds": "Seconds spent in a stage, summed over processes.",
    "retries": "What was tried again: rows after a lost worker or a deadline, passes, requests to the storage.",
    "gpu_busy_ratio": "Share of an editor's life that it spent in passes.",
    "batch_fill_ratio": "Entries of the passes so far, of those that would have had room.",
}


@functools.cache
def _counter(group: str) -> Any:
    from ray.util.metrics import Counter as RayCounter

    return RayCounter(f"retouch_{group}", _DESCRIPTIONS[group], tag_keys=("job", GROUPS[group]))


@functools.cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(f"retouch_{name}", _DESCRIPTIONS[name], tag_keys=("job",))


_next_beat = 0.0


def _due() -> bool:
    global _next_beat
    now = time.monotonic()
    if now < _next_beat:
        return False
    _next_beat = now + BEAT
    return True
