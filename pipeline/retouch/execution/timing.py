"""Where a run's time goes, by part, from what its blocks tell. Knows no executor."""

from __future__ import annotations

import time
from typing import Final

import pyarrow as pa

from retouch.execution.traces import WORKER

# In this order; what comes after the one of them that a run did not get to is 0.
PARTS: Final = ("plan", "start", "load", "edit", "end")


class Stopwatch:
    """Of one run, from the moment when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._marks: dict[str, float] = {}

    def planned(self) -> None:
        """It is known what is to be done, and the output is ours."""
        self._marks["plan"] = time.perf_counter()

    def met(self) -> None:
        """The cluster is there."""
        self._marks["start"] = time.perf_counter()

    def saw(self, rows: pa.Table) -> None:
        """A block is committed; rows are as ``traces.told`` has them."""
        now = time.perf_counter()
        self._marks.setdefault("first", now)
        self._marks["edit"] = now
        worker = rows[WORKER][0].as_py()
        if not worker["turn"]:  # its first block
            # By two clocks where the worker is on another machine: as good as those agree.
            began = now - max(time.time() - worker["began"], 0.0)
            self._marks["load"] = min(self._marks.get("load", now), began)

    def parts(self) -> dict[str, float]:
        """Seconds of each part until now, and of the time until the first image, ``first_image``.

        ``plan`` is what comes before the executor, ``start`` ends when the cluster is there, ``load`` when the first
        edit begins, ``edit`` with the last answer.
        """
        found, before = {}, self._began
        for part in PARTS[:-1]:
            at = max(self._marks.get(part, before), before)
            found[part], before = round(at - before, 3), at
        found["end"] = round(time.perf_counter() - before, 3)
        if "first" in self._marks:
            found["first_image"] = round(self._marks["first"] - self._began, 3)
        return found


def line(parts: dict[str, float]) -> str:
    """``time: plan 1.2 s, start 4.1 s, load 9.0 s, first image after 16.2 s, edit 38.0 s, end 1.5 s``."""
    said = {part: f"{part} {parts[part]:.1f} s" for part in PARTS}
    if "first_image" in parts:
        said["load"] += f", first image after {parts['first_image']:.1f} s"
    return f"time: {', '.join(said.values())}"
