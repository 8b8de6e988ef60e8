"""Work side by side on threads, each piece with a deadline of its own. Knows nothing of what is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    *,
    threads: int,
    seconds: float | None,
    late: Callable[[Item], Result],
) -> list[Result]:
    """``work`` of every item, in order, ``threads`` at a time.

    A thread cannot be stopped: one that is late is left to itself, what it still returns counts for nothing, and
    another takes its place. It does not keep the process from ending.

    Args:
        items: what is to be done.
        work: of one item.
        threads: how many at a time, those that are late not counted.
        seconds: deadline of one item, from when it is begun; None waits for ever.
        late: the result of an item whose deadline has passed.

    Raises:
        Exception: what ``work`` raised; the other items are not waited for.
    """
    return _Crew(items, work, late, seconds).results(threads)


class _Crew(Generic[Item, Result]):
    def __init__(
        self,
        items: Sequence[Item],
        work: Callable[[Item], Result],
        late: Callable[[Item], Result],
        seconds: float | None,
    ) -> None:
        self.items, self.work, self.late, self.seconds = items, work, late, seconds
        self.done: dict[int, Result] = {}
        self.begun: dict[int, float] = {}  # of those under way, on the monotonic clock
        self.left = iter(range(len(items)))
        self.change = threading.Condition()
        self.error: BaseException | None = None

    def results(self, threads: int) -> list[Result]:
        for _ in range(min(threads, len(self.items))):
            self._hire()
        with self.change:
            while len(self.done) < len(self.items) and self.error is None:
                self.change.wait(self._patience())
                self._give_up_late()
        if self.error is not None:
            raise self.error
        return [self.done[number] for number in range(len(self.items))]

    def _hire(self) -> None:
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            with self.change:
                number = next(self.left, None)
                if number is None:
                    return
                if not self.begun:
                    self.change.notify()  # there is a deadline to wait for; those that follow are later
                self.begun[number] = time.monotonic()
            try:
                result = self.work(self.items[number])
            except BaseException as error:
                with self.change:
                    self.error = error
                    self.change.notify()
                return
            with self.change:
                if number not in self.begun:  # it was given up, and another thread has this one's place
                    return
                del self.begun[number]
                self.done[number] = result
                if len(self.done) == len(self.items):
                    self.change.notify()

    def _patience(self) -> float | None:
        """Seconds until the next deadline."""
        if self.seconds is None or not self.begun:
            return None
        return max(0.0, min(self.begun.values()) + self.seconds - time.monotonic())

    def _give_up_late(self) -> None:
        if self.seconds is None:
            return
        now = time.monotonic()
        for number in [number for number, since in self.begun.items() if since + self.seconds <= now]:
            del self.begun[number]
            self.done[number] = self.late(self.items[number])
            self._hire()
