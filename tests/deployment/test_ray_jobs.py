"""Submissions: how they are named, what is refused, and what their ends mean. On a cluster: ``test_two_nodes``."""

from __future__ import annotations

import pytest
from retouch.deployment.ray_jobs import JobState, connect, next_id
from retouch.errors import ConfigError, StopRun

from tests.helpers.ray_nodes import free_port

NIGHT = "quickstart-2026-11-26"


@pytest.mark.parametrize(
    ("there", "again", "wanted"),
    [
        ({}, False, NIGHT),
        ({}, True, NIGHT),
        ({NIGHT: "STOPPED"}, False, f"{NIGHT}-2"),
        ({NIGHT: "FAILED"}, False, f"{NIGHT}-2"),
        ({NIGHT: "RUNNING"}, True, f"{NIGHT}-2"),
        ({NIGHT: "SUCCEEDED", f"{NIGHT}-2": "FAILED", f"{NIGHT}-10": "STOPPED"}, False, f"{NIGHT}-11"),
        ({"quickstart-2026-11-25": "RUNNING", f"another-{NIGHT}": "RUNNING", f"{NIGHT}-two": "RUNNING"}, False, NIGHT),
    ],
)
def test_an_attempt_gets_the_next_free_number_of_its_night(there: dict[str, str], again: bool, wanted: str) -> None:
    assert next_id(NIGHT, there, again=again) == wanted


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
def test_a_night_that_runs_or_is_done_is_not_submitted_again_by_accident(status: str) -> None:
    with pytest.raises(ConfigError, match=f"{NIGHT}-2 is there already: {status}; --again") as error:
        next_id(NIGHT, {NIGHT: "FAILED", f"{NIGHT}-2": status}, again=False)
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
    assert JobState(NIGHT, status, "", code, None, None).exit_code == wanted


def test_where_no_cluster_is_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")  # which an address given counts over
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StopRun, match=f"no Ray dashboard at {address}") as error:
        connect(address)
    assert "\n" not in str(error.value)
