"""Marker files for rows in flight. A marker that outlives its worker names the rows that may have crashed it.

``OUTPUT/in_flight/STAGE-HASH.json`` holds the keys of one piece of work. It is written before the work and deleted
after it. The next worker that processes these rows finds the marker: rows that were in flight together are then
processed one by one, and a row with which ``MAX_DEATHS`` workers died while it was alone fails with ``WorkerLost``
instead of being retried for ever. Markers outlive workers, nodes and the command itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from retouch import storage, telemetry
from retouch.errors import ObjectMissing

FOLDER: Final = "in_flight"
MAX_DEATHS: Final = 3  # workers that die with one row alone: one may be a lost node, three are caused by the row
EXIT_CODE: Final = 3  # of a process that ends itself after a timeout; after 0 Ray would not replace an actor
GRACE: Final = 30.0  # seconds after a timeout until a process whose interpreter is blocked is ended from outside Python
_MAX_SHOWN: Final = 8  # keys in a message


@dataclass(frozen=True)
class WorkerLoss:
    """How often workers died while processing a row."""

    alone: int  # deaths while this row was the only one in flight
    overdue: bool  # whether the last one exceeded the timeout

    @property
    def is_final(self) -> bool:
        """Whether the row is not tried again."""
        return self.alone >= MAX_DEATHS


class InFlight:
    """The marker files of one worker for one stage of a run.

    Use::

        for keys in in_flight.groups(all_keys):
            with in_flight.mark(keys):
                ...  # process these rows
        ...  # fail the rows in in_flight.given_up
        in_flight.clear(all_keys)

    Args:
        output: the run's output folder; None writes no markers and reports no losses.
        stage: ``decode``, ``prepare``, ``edit`` or ``write``.
        seconds: timeout of one piece of work; None waits for ever.
        end: ends the process after a timeout, given the reason.
    """

    def __init__(
        self, output: str | None, stage: str, seconds: float | None = None, end: Callable[[str], None] | None = None
    ) -> None:
        self.folder = None if output is None else storage.join(output, FOLDER)
        self.stage, self.seconds = stage, seconds
        self.losses: Mapping[str, WorkerLoss] = {}  # as ``find_losses`` found them last
        self._end = end or _end_process

    @property
    def given_up(self) -> dict[str, WorkerLoss]:
        """The rows that are not tried again."""
        return {key: loss for key, loss in self.losses.items() if loss.is_final}

    def find_losses(self, keys: Collection[str]) -> Mapping[str, WorkerLoss]:
        """Return, and remember, with which of these rows a worker died.

        Raises:
            StorageError: the markers cannot be read.
        """
        asked, found = set(keys), dict[str, WorkerLoss]()
        for file in [] if self.folder is None else storage.list_files(self.folder):
            marker = _read(file) if file.rpartition("/")[2].startswith(f"{self.stage}-") else {}
            for key in asked.intersection(marker.get("keys", ())):
                alone = int(marker["alone"]) if len(marker["keys"]) == 1 else 0
                before = found.get(key, WorkerLoss(0, False))
                overdue = bool(marker["overdue"]) if alone >= before.alone else before.overdue
                found[key] = WorkerLoss(max(alone, before.alone), overdue)
        for loss in found.values():
            if not loss.is_final:
                telemetry.count("retries.deadline" if loss.overdue else "retries.lost worker")
        self.losses = found
        return found

    def groups(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Yield the rows to process together: first those that no worker died with, then each other one alone.

        Rows that are ``given_up`` are left out.

        Args:
            keys: of one block, each once.
        """
        losses = self.find_losses(keys)
        if together := [key for key in keys if key not in losses]:
            yield together
        yield from ([key] for key in keys if key in losses and not losses[key].is_final)

    @contextlib.contextmanager
    def mark(self, keys: Sequence[str]) -> Iterator[None]:
        """Keep a marker of these rows, and apply the timeout, while the block runs.

        The marker is deleted after an exception, too; only a process that dies leaves it behind.
        """
        if self.folder is None:
            yield
            return
        alone = 1 + self.losses.get(keys[0], WorkerLoss(0, False)).alone if len(keys) == 1 else 0
        file = storage.join(self.folder, f"{self.stage}-{_digest(keys)}.json")
        marker = {"keys": list(keys), "alone": alone, "overdue": False}
        # Not synced to the disk: after a crash of the machine, rows are retried as if they had not been in flight.
        storage.write_bytes(file, json.dumps(marker).encode(), durable=False)
        overdue = json.dumps({**marker, "overdue": True}).encode()
        try:
            with self._timeout(keys, lambda: storage.write_bytes(file, overdue, durable=False)):
                yield
        finally:
            storage.delete(file)

    def clear(self, keys: Collection[str]) -> None:
        """Delete markers that dead workers left for these rows, which all have a result now."""
        if self.folder is None or not self.losses:
            return
        for file in storage.list_files(self.folder):
            if set(_read(file).get("keys", ())) <= set(keys):
                storage.delete(file)

    @contextlib.contextmanager
    def _timeout(self, keys: Sequence[str], record: Callable[[], None]) -> Iterator[None]:
        if self.seconds is None:
            yield
            return

        def expire() -> None:
            with contextlib.suppress(Exception):  # unrecorded, it counts as any other death
                record()
            self._end(f"{self.stage} did not finish within {self.seconds:g} s; rows in flight: {_named(keys)}")

        timer = threading.Timer(self.seconds, expire)
        timer.daemon = True
        timer.start()
        faulthandler.dump_traceback_later(self.seconds + GRACE, exit=True, file=2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            timer.cancel()


def sweep(output: str) -> None:
    """Delete all markers of a run in which every row has a result."""
    for file in storage.list_files(storage.join(output, FOLDER)):
        storage.delete(file)


def _end_process(why: str) -> None:
    """End this process at once: a call that hangs cannot be stopped in any other way."""
    os.write(2, f"retouch: {why}; this process ends, and its rows are retried one by one\n".encode())
    os._exit(EXIT_CODE)


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _MAX_SHOWN} more" if len(keys) > _MAX_SHOWN else ""
    return ", ".join(repr(key) for key in keys[:_MAX_SHOWN]) + more


def _read(file: str) -> dict[str, Any]:
    try:
        marker: dict[str, Any] = json.loads(storage.read_bytes(file))
    except (ObjectMissing, ValueError):  # deleted meanwhile, since its work is done
        return {}
    return marker


def _digest(keys: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()[:20]
