"""The lease of an output: one run at a time may write to it.

``OUTPUT/lease/EPOCH.json`` is the claim of the run with that epoch, created only if it does not exist; ``EPOCH.beat``
changes while the run lives. A run whose beat stops is superseded by a claim with a higher epoch, and every writer looks
for such a claim before and after writing: a run that wakes up late overwrites nothing of a newer one.

Clocks of two machines are never compared: a beat is stale if it did not change for the lease's seconds on the watcher's
own monotonic clock. A process that died on the watcher's machine is known to be dead at once.
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

import psutil

from retouch import storage
from retouch.errors import Busy, LeaseLost, ObjectMissing, StorageError

FOLDER: Final = "lease"
SECONDS: Final = 30.0  # a run without a beat for this long counts as dead
BEATS: Final = 6  # beats in that time
_ATTEMPTS: Final = 20  # to get an epoch that others want, too
_TICKS: Final = os.sysconf("SC_CLK_TCK")  # per second


@dataclass(frozen=True)
class Holder:
    """The process that made a claim."""

    host: str
    pid: int
    machine: str  # boot and process namespace of ``pid``; empty if the system has no such ids
    born: str  # start of the process in clock ticks since the boot, since pids are reused
    nonce: str
    seconds: float  # after which others may take over if there was no beat

    def is_gone(self) -> bool:
        """Whether the process is certainly dead; False if it is on another machine."""
        return bool(self.machine) and self.machine == _machine() and _born(self.pid) != self.born

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Lease:
    """The right to write to an output, held by this process while it beats."""

    def __init__(self, output: str, epoch: int, seconds: float) -> None:
        self.output, self.epoch, self.seconds = output, epoch, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LeaseLost if a newer run has taken over."""
        check(self.output, self.epoch)

    def release(self) -> None:
        """Stop the beat, and let the next run start at once."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(StorageError):  # the next run waits for the beat instead
            storage.write_bytes(_file(self.output, self.epoch, "released"), b"")
            _forget(self.output, self.epoch)

    def _keep(self) -> None:
        beat = 0
        while not self._over.wait(self.seconds / BEATS if beat else 0):
            beat += 1
            with contextlib.suppress(StorageError):  # tried again at the next beat; ``check`` notices a takeover
                storage.write_bytes(_file(self.output, self.epoch, "beat"), str(beat).encode())


@contextlib.contextmanager
def held(output: str, *, after: int = 0, seconds: float = SECONDS) -> Iterator[Lease]:
    """Hold an output's lease.

    Args:
        output: the output folder.
        after: the epoch is above this one, for outputs whose results have epochs without a claim.
        seconds: after which others may take over if there was no beat.

    Raises:
        Busy: another run holds the lease and lives.
        StorageError: the claims cannot be read or written.
    """
    lease = Lease(output, _claim(output, after, seconds), seconds)
    try:
        yield lease
    finally:
        lease.release()


def check(output: str, epoch: int) -> None:
    """Raise LeaseLost if a run with a higher epoch than ``epoch`` claimed the output."""
    newest = _newest(output)
    if newest > epoch:
        raise LeaseLost(f"run {newest} took {output} over from run {epoch}, which stood still; this one writes no more")


def wait_until_over(output: str) -> None:
    """Return when no run holds an output's lease: it was released, or its holder is dead or stalled.

    Raises:
        Busy: a run is writing to the output.
    """
    newest = _newest(output)
    if newest:
        _wait_until_free(output, newest)


def is_left(output: str) -> bool:
    """Whether certainly no run holds the lease: it was released, or its process died on this machine."""
    newest = _newest(output)
    if not newest or storage.exists(_file(output, newest, "released")):
        return True
    try:
        return Holder(**json.loads(storage.read_bytes(_file(output, newest, "json")))).is_gone()
    except (ObjectMissing, ValueError, TypeError):
        return False


def pulse(output: str) -> tuple[int, bytes]:
    """Return the newest claim's epoch and its latest beat: without a change for ``SECONDS`` the run is dead."""
    newest = _newest(output)
    return newest, _beat(output, newest)


def _claim(output: str, after: int, seconds: float) -> int:
    me = Holder(socket.gethostname(), os.getpid(), _machine(), _born(os.getpid()), secrets.token_hex(8), seconds)
    for _ in range(_ATTEMPTS):
        newest = _newest(output)
        if newest:
            _wait_until_free(output, newest)
        epoch = max(newest, after) + 1
        if _take(output, epoch, me):
            return epoch
    raise Busy(f"{_ATTEMPTS} times another run was quicker to claim {output}; run it again later")


def _take(output: str, epoch: int, me: Holder) -> bool:
    """Claim an epoch. Return False if another run has it, or may have it."""
    claim = _file(output, epoch, "json")
    if not storage.create_if_absent(claim, _encoded(me)):
        return False
    if storage.keeps_out(claim, _encoded(me)):
        return True
    return _take_by_turns(output, epoch, me)


def _take_by_turns(output: str, epoch: int, me: Holder) -> bool:
    """Claim an epoch on a store that ignores "only if absent" (some gateways do).

    Each run announces itself and then lists the others. Of two, the second to announce itself sees the other and steps
    back; if both did so before either listed, both step back. Listings must be consistent, as they are on S3.
    """
    mine = _file(output, epoch, f"{me.nonce}.try")
    storage.write_bytes(mine, _encoded(me))
    others = [name for name in _names(output) if name.startswith(f"{epoch:06d}.") and name.endswith(".try")]
    if others == [mine.rpartition("/")[2]]:
        storage.write_bytes(_file(output, epoch, "json"), _encoded(me))  # another run may have overwritten it
        return True
    storage.delete(mine)
    time.sleep(random.uniform(0.2, 2.0))  # not in step with others that stepped back
    return False


def _wait_until_free(output: str, epoch: int) -> None:
    """Return when the run with that epoch is over, or stalled for its lease's seconds.

    Raises:
        Busy: it lives.
    """
    try:
        holder = Holder(**json.loads(storage.read_bytes(_file(output, epoch, "json"))))
    except ObjectMissing:
        return
    except (ValueError, TypeError):  # written by another version, or truncated
        holder = Holder("an unknown host", 0, "", "", "", SECONDS)
    if holder.is_gone() or storage.exists(_file(output, epoch, "released")):
        return
    first, since = _beat(output, epoch), time.monotonic()
    while time.monotonic() - since < holder.seconds:
        time.sleep(min(1.0, holder.seconds / BEATS / 2))
        if holder.is_gone() or storage.exists(_file(output, epoch, "released")):
            return
        if _beat(output, epoch) != first:
            raise Busy(f"{output} is being written by {holder}; wait for it, or stop it and run this again")


def _beat(output: str, epoch: int) -> bytes:
    try:
        return storage.read_bytes(_file(output, epoch, "beat"))
    except ObjectMissing:
        return b""


def _newest(output: str) -> int:
    return max((int(name[:6]) for name in _names(output) if name.endswith(".json") and name[:6].isdigit()), default=0)


def _forget(output: str, epoch: int) -> None:
    """Delete the files of earlier runs; the newest claim stays for runs that wake up late."""
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
    """Return the ids of this boot and this process namespace; empty if the system has none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """Return the start of a process in ticks since the boot, unaffected by clock changes; empty if it is dead."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return ""
        return str(round((process.create_time() - psutil.boot_time()) * _TICKS))
    except psutil.NoSuchProcess:
        return ""
