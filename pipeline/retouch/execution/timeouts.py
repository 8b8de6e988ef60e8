"""Threads that process items in parallel, with a deadline for each item."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_with_deadline(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    *,
    threads: int,
    seconds: float | None,
    late: Callable[[Item], Result],
) -> list[Result]:
    """Return ``work(item)`` for every item, in order, computed on ``threads`` threads.

    A thread cannot be stopped: one that exceeds the deadline is abandoned, its result is ignored, and another thread
    takes its place. It does not keep the process from exiting.

    Args:
        items: what to process.
        work: processes one item.
        threads: how many run at a time, abandoned ones not counted.
        seconds: deadline for one item from when its work starts; None for no deadline.
        late: returns the result for an item that exceeded the deadline.

    Raises:
        Exception: what ``work`` raised; the other items are not waited for.
    """
    return _DeadlinePool(items, work, late, seconds).results(threads)


class _DeadlinePool(Generic[Item, Result]):
    """State of one ``map_with_deadline``, shared by its threads under ``change``."""

    def __init__(
        self,
        items: Sequence[Item],
        work: Callable[[Item], Result],
        late: Callable[[Item], Result],
        seconds: float | None,
    ) -> None:
        self.items, self.work, self.late, self.seconds = items, work, late, seconds
        self.done: dict[int, Result] = {}
        self.started: dict[int, float] = {}  # when the work on unfinished items started, by the monotonic clock
        self.pending = iter(range(len(items)))
        self.change = threading.Condition()
        self.error: BaseException | None = None

    def results(self, threads: int) -> list[Result]:
        for _ in range(min(threads, len(self.items))):
            self._start_thread()
        with self.change:
            while len(self.done) < len(self.items) and self.error is None:
                self.change.wait(self._seconds_to_deadline())
                self._abandon_late()
        if self.error is not None:
            raise self.error
        return [self.done[number] for number in range(len(self.items))]

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self.change:
                number = next(self.pending, None)
                if number is None:
                    return
                if not self.started:
                    self.change.notify()  # now there is a deadline to wait for; later items have later deadlines
                self.started[number] = time.monotonic()
            try:
                result = self.work(self.items[number])
            except BaseException as error:
                with self.change:
                    self.error = error
                    self.change.notify()
                return
            with self.change:
                if number not in self.started:  # abandoned; another thread has taken this one's place
                    return
                del self.started[number]
                self.done[number] = result
                if len(self.done) == len(self.items):
                    self.change.notify()

    def _seconds_to_deadline(self) -> float | None:
        """Return the time until the next deadline; None if there is none."""
        if self.seconds is None or not self.started:
            return None
        return max(0.0, min(self.started.values()) + self.seconds - time.monotonic())

    def _abandon_late(self) -> None:
        if self.seconds is None:
            return
        now = time.monotonic()
        for number in [number for number, start in self.started.items() if start + self.seconds <= now]:
            del self.started[number]
            self.done[number] = self.late(self.items[number])
            self._start_thread()
