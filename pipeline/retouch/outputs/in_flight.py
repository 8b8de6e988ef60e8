"""Which rows were in hand when a worker died: left on storage before the work, taken away after it. Knows no stage.

``OUTPUT/in_flight/STAGE-HASH.json`` names the keys of one piece of work under way. A worker that dies leaves its file,
and whoever does these rows next finds it: rows that were in hand together are then done one by one, and a row with
which workers died ``TRIES`` times while it was alone is answered with ``WorkerLost`` instead of being tried for ever.
The files outlive workers, nodes and the command itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from retouch import storage, telemetry
from retouch.errors import ObjectMissing

Row = TypeVar("Row")
Result = TypeVar("Result")

FOLDER: Final = "in_flight"
TRIES: Final = 3  # deaths with one row alone in hand: one may be a node that went, three are the row's doing
EXIT_CODE: Final = (
    3  # of a process that ends itself over a deadline; never 0, after which Ray gives an actor's place away
)
GRACE: Final = (
    30.0  # seconds after a deadline until a process that cannot even run a timer is ended from outside Python
)
_SHOWN: Final = 8  # keys that a line names


@dataclass(frozen=True)
class Loss:
    """What befell a row's workers."""

    alone: int  # deaths with this row alone in hand
    overdue: bool  # the last one over a deadline

    @property
    def is_final(self) -> bool:
        """Whether the row is not tried again."""
        return self.alone >= TRIES


class Flights:
    """One worker's notes for one stage of a run.

    Args:
        output: the run's output folder; None keeps no notes and knows no losses.
        stage: ``decode``, ``edit`` or ``write``.
        seconds: deadline of one piece of work; None waits for ever.
        end: what ends the process over a deadline, given the line that says why.
    """

    def __init__(
        self, output: str | None, stage: str, seconds: float | None = None, end: Callable[[str], None] | None = None
    ) -> None:
        self.folder = None if output is None else storage.join(output, FOLDER)
        self.stage, self.seconds = stage, seconds
        self._end = end or _end_process

    def losses(self, keys: Sequence[str]) -> dict[str, Loss]:
        """Of these rows those with which a worker died, and how.

        Raises:
            StorageError: the notes could not be read.
        """
        if self.folder is None:
            return {}
        asked, found = set(keys), dict[str, Loss]()
        for file in storage.list_files(self.folder):
            note = _read(file) if file.rpartition("/")[2].startswith(f"{self.stage}-") else {}
            for key in asked.intersection(note.get("keys", ())):
                alone = int(note["alone"]) if len(note["keys"]) == 1 else 0
                before = found.get(key, Loss(0, False))
                overdue = bool(note["overdue"]) if alone >= before.alone else before.overdue
                found[key] = Loss(max(alone, before.alone), overdue)
        for loss in found.values():
            if not loss.is_final:
                telemetry.count("retries.deadline" if loss.overdue else "retries.lost worker")
        return found

    @contextlib.contextmanager
    def over(self, keys: Sequence[str], losses: Mapping[str, Loss] | None = None) -> Iterator[None]:
        """Hold a note of these keys, and a deadline, for as long as the work on them takes.

        An exception is an end like any other; only a process that dies leaves the note behind.

        Args:
            keys: rows in hand.
            losses: what ``losses`` said; a row alone goes on counting from there.
        """
        if self.folder is None:
            yield
            return
        alone = 1 + (losses or {}).get(keys[0], Loss(0, False)).alone if len(keys) == 1 else 0
        file = storage.join(self.folder, f"{self.stage}-{_digest(keys)}.json")
        note = {"keys": list(keys), "alone": alone, "overdue": False}
        # Not to outlive the machine: what a node's end takes away is tried again as if it had not been in hand.
        storage.write_bytes(file, json.dumps(note).encode(), durable=False)
        overdue = json.dumps({**note, "overdue": True}).encode()
        try:
            with self._deadline(keys, lambda: storage.write_bytes(file, overdue, durable=False)):
                yield
        finally:
            storage.delete(file)

    def in_turns(
        self,
        rows: Sequence[Row],
        key_of: Callable[[Row], str],
        work: Callable[[Sequence[Row]], Sequence[Result]],
        lost: Callable[[Row, Loss], Result],
    ) -> list[Result]:
        """The results of rows, in order: together, but those alone with which a worker died.

        Args:
            rows: of one block.
            key_of: a row's key, unique in the block.
            work: results of some rows, in order.
            lost: the result of a row that is not tried again.
        """
        keys = [key_of(row) for row in rows]
        losses = self.losses(keys)
        results = {key: lost(row, losses[key]) for key, row in zip(keys, rows, strict=True) if _final(losses, key)}
        together = [row for key, row in zip(keys, rows, strict=True) if key not in losses]
        alone = [[row] for key, row in zip(keys, rows, strict=True) if key in losses and key not in results]
        for some in [together, *alone] if together else alone:
            names = [key_of(row) for row in some]
            with self.over(names, losses):
                results |= zip(names, work(some), strict=True)
        self.forget(keys, losses)
        return [results[key] for key in keys]

    def forget(self, keys: Sequence[str], losses: Mapping[str, Loss]) -> None:
        """Take away the notes of deaths among these rows, which all have an answer now."""
        if self.folder is None or not losses:
            return
        for file in storage.list_files(self.folder):
            if set(_read(file).get("keys", ())) <= set(keys):
                storage.delete(file)

    @contextlib.contextmanager
    def _deadline(self, keys: Sequence[str], note: Callable[[], None]) -> Iterator[None]:
        if self.seconds is None:
            yield
            return

        def over() -> None:
            with contextlib.suppress(Exception):  # without the note it counts as any other death
                note()
            self._end(f"no end of {self.stage} after {self.seconds:g} s with rows {_named(keys)} in hand")

        timer = threading.Timer(self.seconds, over)
        timer.daemon = True
        timer.start()
        faulthandler.dump_traceback_later(self.seconds + GRACE, exit=True, file=2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            timer.cancel()


def _final(losses: Mapping[str, Loss], key: str) -> bool:
    return key in losses and losses[key].is_final


def sweep(output: str) -> None:
    """Delete all notes: to be called when every row is answered, by one process."""
    for file in storage.list_files(storage.join(output, FOLDER)):
        storage.delete(file)


def _end_process(why: str) -> None:
    """End this process at once: what hangs in it cannot be stopped in any other way."""
    os.write(2, f"retouch: {why}; this process ends itself, and whoever goes on tries them one by one\n".encode())
    os._exit(EXIT_CODE)


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(repr(key) for key in keys[:_SHOWN]) + more


def _read(file: str) -> dict[str, Any]:
    try:
        note: dict[str, Any] = json.loads(storage.read_bytes(file))
    except (ObjectMissing, ValueError):  # its work came to an end meanwhile
        return {}
    return note


def _digest(keys: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(keys)).encode()).hexdigest()[:20]
