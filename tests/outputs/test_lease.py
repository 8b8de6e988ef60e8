"""One run at a time: shown with real processes that live, die and stand still, on real storage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from retouch import storage
from retouch.errors import Busy, LeaseLost
from retouch.outputs import lease

SHORT = 1.5  # seconds of a lease in these tests
HOLDER = """
import sys, time
from retouch.outputs import lease
with lease.held(sys.argv[1], seconds=float(sys.argv[2])) as held:
    print(held.epoch, flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(output: str, seconds: float = SHORT) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease."""
    command = [sys.executable, "-c", HOLDER, output, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "1"
        try:
            yield process
        finally:
            process.kill()


def test_a_lease_that_was_given_back_is_taken_with_the_next_number(place: str) -> None:
    with lease.held(place) as first:
        first.check()
    with lease.held(place) as second:
        second.check()
        assert (first.epoch, second.epoch) == (1, 2)
    assert [name[:6] for name in _files(place)] == ["000002"] * 3


def test_the_number_is_above_those_that_the_results_have(tmp_path: Path) -> None:
    with lease.held(str(tmp_path), after=7) as held:
        assert held.epoch == 8


def test_a_run_that_lives_keeps_others_out(tmp_path: Path) -> None:
    with holder(str(tmp_path)) as other:
        with pytest.raises(Busy, match=f"written by process {other.pid} on ") as error, lease.held(str(tmp_path)):
            pass
        assert error.value.exit_code == 3
        assert other.poll() is None


def test_a_run_that_was_killed_on_this_machine_is_followed_at_once(tmp_path: Path) -> None:
    with holder(str(tmp_path), seconds=3600) as other:
        other.kill()
        other.wait()
        with lease.held(str(tmp_path)) as held:
            assert held.epoch == 2


def test_a_run_that_stands_still_is_taken_over_and_sees_it_when_it_wakes_up(tmp_path: Path) -> None:
    with holder(str(tmp_path)) as other:
        other.send_signal(signal.SIGSTOP)
        with lease.held(str(tmp_path)) as held:
            assert held.epoch == 2
            other.send_signal(signal.SIGCONT)
            held.check()
            with pytest.raises(LeaseLost, match=r"run 2 took .* over from run 1"):
                lease.check(str(tmp_path), 1)


def test_a_process_of_another_machine_is_watched_and_not_looked_up(tmp_path: Path) -> None:
    here = lease.Holder("h", os.getpid(), lease._machine(), lease._born(os.getpid()), "n", SHORT)
    assert not here.is_gone()
    assert lease.Holder("h", os.getpid(), lease._machine(), "another start", "n", SHORT).is_gone()
    assert not lease.Holder("h", 1 << 30, "another machine", "1", "n", SHORT).is_gone()


def test_a_process_is_known_by_the_ticks_that_claims_of_earlier_versions_have() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        assert lease._born(process.pid) == ticks
        process.kill()
        time.sleep(0.2)
        assert lease._born(process.pid) == ""  # a zombie until it is waited for
    assert lease._born(process.pid) == ""


@pytest.mark.parametrize("where", ["local", pytest.param("ceph", marks=pytest.mark.s3)])
def test_of_eight_that_start_at_once_one_gets_it(request: pytest.FixtureRequest, tmp_path: Path, where: str) -> None:
    output = str(tmp_path) if where == "local" else f"{request.getfixturevalue('real_s3')}/out"
    won, over = _race(output)
    assert won == [1]
    assert over == 7


def test_on_a_store_that_ignores_conditions_no_two_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Heedless(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
        """What some S3 gateways do: a put on condition is a put."""

        protocol = "heedless"
        store: dict[str, object] = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: object) -> None:
            super().pipe_file(path, value, mode="overwrite", **kwargs)

    fsspec.register_implementation("heedless", Heedless, clobber=True)
    for number in range(3):
        won, _ = _race(f"heedless://race{number}")
        assert len(won) <= 1
    storage.write_bytes("heedless://there/x", b"x")
    assert not storage.keeps_out("heedless://there/x", b"x")
    with lease.held("heedless://alone") as held:
        assert held.epoch == 1


def _race(output: str) -> tuple[list[int], int]:
    """Numbers of the leases that eight threads got while all wanted one, and how many were told to wait."""
    won, lost, gate = [], [], threading.Barrier(8)
    over = threading.Event()

    def run() -> None:
        gate.wait()
        try:
            with lease.held(output, seconds=4) as held:
                won.append(held.epoch)
                over.wait(120)
        except Busy:
            lost.append(1)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 90
    while len(won) + len(lost) < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    return won, len(lost)


def _files(output: str) -> list[str]:
    return [file.rpartition("/")[2] for file in storage.list_files(storage.join(output, lease.FOLDER))]
