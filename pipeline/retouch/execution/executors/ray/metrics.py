"""Telemetry of a run's workers: exported as Ray's metrics, and summed for the driver, which outlives the cluster.

Every process reports its own totals after each block, and while it fetches weights. Ray exports the metrics on each
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

INTERVAL: Final = 1.0  # seconds between two reports while weights are fetched
WRITE_TIMEOUT: Final = 1.0  # seconds that a block's writer waits until its totals are there, so that sums have its rows
SUMS_TIMEOUT: Final = 30.0  # seconds that the driver waits for the sums; a run does not fail without them
TAGS: Final[Mapping[str, str]] = {"rows": "status", "stage_seconds": "stage", "retries": "reason"}  # by group of totals

_exported: dict[str, float] = {}  # totals of this process that Ray's metrics have
_before_run: dict[str, dict[str, float]] = {}  # totals of this process before each run
_lock: Final = threading.Lock()


class TotalsActor:
    """Each process's latest totals of one run. A Ray actor that takes no CPU."""

    def __init__(self) -> None:
        self._totals: dict[str, Mapping[str, float]] = {}

    def put(self, worker: str, totals: Mapping[str, float]) -> None:
        """Replace a process's totals."""
        self._totals[worker] = totals

    def sums(self) -> dict[str, float]:
        """Return the totals of all processes together."""
        summed: Counter[str] = Counter()
        for totals in self._totals.values():
            summed.update(totals)
        return dict(summed)


@dataclass(frozen=True)
class WorkerReporter:
    """Reports a worker's totals; sent to the workers with their tasks."""

    job: str
    run: str  # distinguishes the runs of one driver
    actor: Any  # handle of a TotalsActor

    def report(self, life: float | None = None, timeout: float = 0.0) -> None:
        """Report this process's totals. Never raises, since a run does not depend on its telemetry.

        Args:
            life: seconds since an edit actor began to load.
            timeout: seconds to wait, at most, until the totals are received.
        """
        import ray

        try:
            ray.wait([self._send(life)], timeout=timeout)
        except Exception:  # Ray's metrics or the actor cannot be reached
            return

    def report_download(self, _bytes: int = 0) -> None:
        """Report if ``INTERVAL`` has passed since the last call; called for each piece of a download."""
        if _is_due():
            self.report()

    def fetched_bytes(self) -> float:
        """Return the bytes of weights that all workers have fetched."""
        import ray

        return float(ray.get(self.actor.sums.remote()).get("fetched_bytes", 0))

    def _send(self, life: float | None) -> Any:
        import ray

        with _lock:
            before = _before_run.setdefault(self.run, dict(_exported))
            new, totals = telemetry.since(_exported), telemetry.since(before)
            _exported.update(telemetry.totals())
        for name, amount in new.items():
            group, dot, value = name.partition(".")
            if dot and group in TAGS and amount > 0:
                _counter(group).inc(amount, tags={"job": self.job, TAGS[group]: value})
        if life is not None:
            totals[telemetry.LIFE] = life
        ratios = {"gpu_busy_ratio": ("pass_seconds", telemetry.LIFE), "batch_fill_ratio": ("entries", "places")}
        for name, (part, whole) in ratios.items():
            ratio = telemetry.ratio(totals.get(part, 0), totals.get(whole, 0))
            if ratio is not None and life is not None:
                _gauge(name).set(ratio, tags={"job": self.job})
        return self.actor.put.remote(ray.get_runtime_context().get_worker_id(), totals)


@contextlib.contextmanager
def reporting(job: str, totals: dict[str, float] | None) -> Iterator[WorkerReporter]:
    """Yield a reporter, with a totals actor near the driver, for the time of a run.

    Args:
        job: its name.
        totals: filled with the sums over all workers at the end, unless the actor is lost by then.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    placement: dict[str, Any] = {}
    if not ray.util.client.ray.is_connected():  # a driver behind ray:// is on no node
        node = ray.get_runtime_context().get_node_id()
        placement["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
    actor = ray.remote(TotalsActor).options(num_cpus=0, max_restarts=-1, **placement).remote()
    try:
        yield WorkerReporter(job, secrets.token_hex(8), actor)
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            (totals if totals is not None else {}).update(ray.get(actor.sums.remote(), timeout=SUMS_TIMEOUT))
    finally:
        ray.kill(actor)


_DESCRIPTIONS: Final = {
    "rows": "Rows done.",
    "stage_seconds": "Seconds spent in a stage, summed over processes.",
    "retries": "Retries: rows after a lost worker or a timeout, passes, requests to the storage.",
    "gpu_busy_ratio": "Fraction of an actor's lifetime spent in forward passes.",
    "batch_fill_ratio": "Entries of the passes so far, as a fraction of the room in them.",
}


@functools.cache
def _counter(group: str) -> Any:
    from ray.util.metrics import Counter as RayCounter

    return RayCounter(f"retouch_{group}", _DESCRIPTIONS[group], tag_keys=("job", TAGS[group]))


@functools.cache
def _gauge(name: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(f"retouch_{name}", _DESCRIPTIONS[name], tag_keys=("job",))


_next_report = 0.0


def _is_due() -> bool:
    global _next_report
    now = time.monotonic()
    if now < _next_report:
        return False
    _next_report = now + INTERVAL
    return True
