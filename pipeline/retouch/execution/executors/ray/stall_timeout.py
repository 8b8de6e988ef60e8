"""Ray's limit of standing still, which does not run while some worker fetches weights. Knows no row and no file.

Ray Data fails a run in which no block moves for ``execution_no_progress_timeout_s``. On cold nodes that may be every
actor at once, each in its ``__init__`` with gigabytes to fetch. A fetch from which nothing comes any more still counts.
"""

from __future__ import annotations

import time
from typing import Any, Final

from retouch.execution.executors.ray.metrics import Reporter

LOOK: Final = 10.0  # seconds between two looks at the board, or a quarter of the limit


def set_limit(context: Any, seconds: float, told: Reporter) -> None:
    """Set the limit of runs that are started in this context.

    Args:
        context: Ray Data's DataContext.
        seconds: the limit.
        told: whose board says how many bytes have come.
    """
    context.execution_no_progress_timeout_s = seconds  # 1,800 by default fails runs that wait for a spot GPU
    context.custom_execution_callback_classes = [_callback(min(LOOK, seconds / 4), told)]


def _callback(every: float, told: Reporter) -> type:
    import ray
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Patience(ExecutionCallback):  # type: ignore[misc, unused-ignore]
        """Asks the board, and waits for no answer: it is called by the loop that schedules all work."""

        def __init__(self) -> None:
            self.fetched, self.next = 0.0, time.monotonic() + every
            self.asked: Any = None

        def on_execution_step(self, executor: Any) -> None:
            """Set Ray's clock back where bytes have come since the last look."""
            now = time.monotonic()
            if self.asked is not None and ray.wait([self.asked], timeout=0)[0]:
                fetched, self.asked = self._answer(), None
                if fetched > self.fetched:
                    self.fetched = fetched
                    executor._no_progress_guard._last_progress_time = now
            if self.asked is None and now >= self.next:
                self.asked, self.next = told.board.sums.remote(), now + every

        def _answer(self) -> float:
            try:
                return float(ray.get(self.asked).get("fetched_bytes", 0))
            except ray.exceptions.RayError:  # the board is gone: Ray's limit stands as it is
                return 0.0

    return Patience
