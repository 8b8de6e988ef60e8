"""Submissions: their ids, which are refused, how they are followed, and what their ends mean.

Those on a cluster are in ``tests/execution/executors/ray/test_two_nodes.py``.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientError
from retouch.deployment import ray_jobs
from retouch.deployment.ray_jobs import JobState, connect, follow, next_id
from retouch.errors import ConfigError, Interrupted, StopRun

from tests.helpers.ray_nodes import free_port

FIRST = "quickstart-2026-11-26"


@pytest.mark.parametrize(
    ("statuses", "again", "wanted"),
    [
        ({}, False, FIRST),
        ({}, True, FIRST),
        ({FIRST: "STOPPED"}, False, f"{FIRST}-2"),
        ({FIRST: "FAILED"}, False, f"{FIRST}-2"),
        ({FIRST: "RUNNING"}, True, f"{FIRST}-2"),
        ({FIRST: "SUCCEEDED", f"{FIRST}-2": "FAILED", f"{FIRST}-10": "STOPPED"}, False, f"{FIRST}-11"),
        ({"quickstart-2026-11-25": "RUNNING", f"another-{FIRST}": "RUNNING", f"{FIRST}-two": "RUNNING"}, False, FIRST),
    ],
)
def test_an_attempt_gets_the_next_free_number_of_its_date(statuses: dict[str, str], again: bool, wanted: str) -> None:
    assert next_id(FIRST, statuses, again=again) == wanted


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_a_job_that_runs_or_succeeded_is_not_submitted_again_by_accident(status: str) -> None:
    with pytest.raises(ConfigError, match=f"{FIRST}-2 exists already: {status}; --again") as error:
        next_id(FIRST, {FIRST: "FAILED", f"{FIRST}-2": status}, again=False)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 3, 3),
        ("FAILED", 127, 2),  # no such interpreter
        ("FAILED", -9, 3),  # killed
        ("FAILED", None, 3),  # its node is gone
        ("STOPPED", None, 3),
    ],
)
def test_an_end_has_the_exit_code_of_the_command_or_of_what_cut_it_short(
    status: str, code: int | None, wanted: int
) -> None:
    assert JobState(FIRST, status, "", code, None, None).exit_code == wanted


def test_without_a_cluster_there_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")  # an address that is given has priority
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StopRun, match=f"no Ray dashboard at {address}") as error:
        connect(address)
    assert "\n" not in str(error.value)


@dataclass
class Client:
    """Stands in for Ray's client: each connection sends the log so far, in pieces, and all but the last one break."""

    connections: list[list[str]]

    def get_address(self) -> str:
        return "http://head:8265"

    def get_job_info(self, submission_id: str) -> Any:
        status = "RUNNING" if self.connections else "SUCCEEDED"
        return SimpleNamespace(
            submission_id=submission_id, status=status, message="", driver_exit_code=0, start_time=1, end_time=2
        )

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        for text in self.connections.pop(0) if self.connections else []:
            yield text
        if self.connections:
            raise ClientError("connection reset")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "POLL_SECONDS", 0.01)


@pytest.mark.usefixtures("_quick")
def test_each_part_of_a_log_is_written_once_although_connections_break() -> None:
    written: list[str] = []
    client = Client([["one\n"], ["one\ntwo\n", "thr"], [], ["one\n", "two\nthree\nfour\n"]])
    assert follow(client, FIRST, written.append).status == "SUCCEEDED"
    assert "".join(written) == "one\ntwo\nthree\nfour\n"


@pytest.mark.usefixtures("_quick")
def test_a_cluster_that_stays_away_ends_the_following_but_not_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "TIMEOUT", 0.1)
    with pytest.raises(Interrupted, match=f"lost the connection to {FIRST}, which may still run: connection reset"):
        follow(Client([[] for _ in range(1000)]), FIRST, print)


@pytest.mark.usefixtures("_quick")
def test_the_log_of_a_job_that_has_ended_is_written_too() -> None:
    written: list[str] = []
    assert follow(Client([["done\n"]]), FIRST, written.append).status == "SUCCEEDED"
    assert written == ["done\n"]


@pytest.mark.usefixtures("_quick")
def test_ctrl_c_ends_the_following_at_once() -> None:
    client = Client([["one\n", "two\n"], ["three\n"]])

    def write(text: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        follow(client, FIRST, write)
    assert client.connections == [["three\n"]]
