"""Who may write to an output: one run at a time, by a lease with a number. Knows neither rows nor results.

``OUTPUT/lease/EPOCH.json`` is the claim of the run with that number, put only where none is; ``EPOCH.beat`` changes
while the run lives. A run whose beat stands still is superseded by a claim with a higher number, and whoever writes
looks for such a claim before and after: a run that wakes up late writes nothing over a newer one's work.

No clock is compared with another: a beat is stale when it did not change for the lease's seconds on the watcher's own
monotonic clock. A process that died on the watcher's machine is known to be dead at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from retouch import storage
from retouch.errors import Busy, LeaseLost, ObjectMissing, StorageError

FOLDER: Final = "lease"
SECONDS: Final = 30.0  # without a beat for so long, a run counts as dead
BEATS: Final = 6  # in that time
_ROUNDS: Final = 20  # tries to get a number that others want too


@dataclass(frozen=True)
class Holder:
    """Who made a claim."""

    host: str
    pid: int
    machine: str  # the boot and the process namespace that ``pid`` is of; empty where there is no telling
    born: str  # the process's start in ticks of the machine, since a pid may come again
    nonce: str
    seconds: float  # without a beat, after which others may take over

    def is_gone(self) -> bool:
        """Whether it is sure that the process is dead; False where it is on another machine."""
        return bool(self.machine) and self.machine == _machine() and _born(self.pid) != self.born

    def said(self) -> str:
        """For an error line."""
        return f"process {self.pid} on {self.host}"


class Lease:
    """The right to write to an output, held by this process while it beats."""

    def __init__(self, output: str, epoch: int, seconds: float) -> None:
        self.output, self.epoch, self.seconds = output, epoch, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLost where a newer run has taken over."""
        check(self.output, self.epoch)

    def release(self) -> None:
        """Stop beating, and let the next run start at once."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(StorageError):  # the next run waits for the beat instead
            storage.write_bytes(_file(self.output, self.epoch, "released"), b"")
            _forget(self.output, self.epoch)

    def _keep(self) -> None:
        beat = 0
        while not self._over.wait(self.seconds / BEATS if beat else 0):
            beat += 1
            with contextlib.suppress(StorageError):  # tried again at the next beat; who takes over is seen by ``check``
                storage.write_bytes(_file(self.output, self.epoch, "beat"), str(beat).encode())


@contextlib.contextmanager
def held(output: str, *, after: int = 0, seconds: float = SECONDS) -> Iterator[Lease]:
    """Hold an output's lease.

    Args:
        output: the output folder.
        after: the lease's number is above this one, for outputs whose results know numbers that no claim has.
        seconds: without a beat, after which others may take over.

    Raises:
        Busy: another run holds it and lives.
        StorageError: it could not be told.
    """
    lease = Lease(output, _claim(output, after, seconds), seconds)
    try:
        yield lease
    finally:
        lease.release()


def check(output: str, epoch: int) -> None:
    """Raise LeaseLost where a run with a higher number than ``epoch`` claimed the output."""
    newest = _newest(output)
    if newest > epoch:
        raise LeaseLost(f"run {newest} took {output} over from run {epoch}, which stood still; this one writes no more")


def wait_until_over(output: str) -> None:
    """Return when no run holds an output's lease: it was released, or its holder is dead or stood still.

    Raises:
        Busy: a run is at work there.
    """
    newest = _newest(output)
    if newest:
        _wait_until_free(output, newest)


def is_left(output: str) -> bool:
    """Whether it is sure that nobody holds the lease: it was given back, or its process died on this machine."""
    newest = _newest(output)
    if not newest or storage.exists(_file(output, newest, "released")):
        return True
    try:
        return Holder(**json.loads(storage.read_bytes(_file(output, newest, "json")))).is_gone()
    except (ObjectMissing, ValueError, TypeError):
        return False


def pulse(output: str) -> tuple[int, bytes]:
    """The newest claim's number and its latest beat: what stands still for ``SECONDS`` is dead, wherever it was."""
    newest = _newest(output)
    return newest, _beat(output, newest)


def _claim(output: str, after: int, seconds: float) -> int:
    me = Holder(socket.gethostname(), os.getpid(), _machine(), _born(os.getpid()), secrets.token_hex(8), seconds)
    for _ in range(_ROUNDS):
        newest = _newest(output)
        if newest:
            _wait_until_free(output, newest)
        epoch = max(newest, after) + 1
        if _take(output, epoch, me):
            return epoch
    raise Busy(f"{_ROUNDS} times another run was quicker to claim {output}; run it again later")


def _take(output: str, epoch: int, me: Holder) -> bool:
    """Claim a number. False where another one has it, or may have it."""
    claim = _file(output, epoch, "json")
    if not storage.create_if_absent(claim, _encoded(me)):
        return False
    if storage.keeps_out(claim, _encoded(me)):
        return True
    return _take_by_turns(output, epoch, me)


def _take_by_turns(output: str, epoch: int, me: Holder) -> bool:
    """Claim a number on a store that puts over what it was told to leave alone (some gateways do).

    Each announces itself and then looks. Of two, the one that announced itself second sees the other and steps back;
    where both did so before either looked, both step back. What is listed must be up to date, as it is on S3.
    """
    mine = _file(output, epoch, f"{me.nonce}.try")
    storage.write_bytes(mine, _encoded(me))
    others = [name for name in _names(output) if name.startswith(f"{epoch:06d}.") and name.endswith(".try")]
    if others == [mine.rpartition("/")[2]]:
        storage.write_bytes(_file(output, epoch, "json"), _encoded(me))  # others may have put theirs over it
        return True
    storage.delete(mine)
    time.sleep(random.uniform(0.2, 2.0))  # not in step with those who stepped back too
    return False


def _wait_until_free(output: str, epoch: int) -> None:
    """Return when the run with that number is over, or stood still for its lease's seconds.

    Raises:
        Busy: it lives.
    """
    try:
        holder = Holder(**json.loads(storage.read_bytes(_file(output, epoch, "json"))))
    except ObjectMissing:
        return
    except (ValueError, TypeError):  # put by another version, or cut short
        holder = Holder("an unknown host", 0, "", "", "", SECONDS)
    if holder.is_gone() or storage.exists(_file(output, epoch, "released")):
        return
    first, since = _beat(output, epoch), time.monotonic()
    while time.monotonic() - since < holder.seconds:
        time.sleep(min(1.0, holder.seconds / BEATS / 2))
        if holder.is_gone() or storage.exists(_file(output, epoch, "released")):
            return
        if _beat(output, epoch) != first:
            raise Busy(f"{output} is being written by {holder.said()}; wait for it, or stop it and run this again")


def _beat(output: str, epoch: int) -> bytes:
    try:
        return storage.read_bytes(_file(output, epoch, "beat"))
    except ObjectMissing:
        return b""


def _newest(output: str) -> int:
    return max((int(name[:6]) for name in _names(output) if name.endswith(".json") and name[:6].isdigit()), default=0)


def _forget(output: str, epoch: int) -> None:
    """Delete the files of earlier runs; the newest claim stays, for what wakes up late to see."""
    for name in _names(output):
        if name[:6].isdigit() and int(name[:6]) < epoch:
            storage.delete(storage.join(output, FOLDER, name))


def _names(output: str) -> list[str]:
    return [file.rpartition("/")[2] for file in storage.list_files(storage.join(output, FOLDER))]


def _file(output: str, epoch: int, kind: str) -> str:
    return storage.join(output, FOLDER, f"{epoch:06d}.{kind}")


def _encoded(holder: Holder) -> bytes:
    facts: dict[str, Any] = vars(holder)
    return json.dumps(facts).encode()


def _machine() -> str:
    """This boot of this machine and this process namespace; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When a process of this machine started; empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # a zombie is dead
