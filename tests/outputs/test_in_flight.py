"""A worker that dies leaves its marker; these tests kill real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from retouch import storage
from retouch.outputs import in_flight
from retouch.outputs.in_flight import EXIT_CODE, MAX_DEATHS, InFlight, WorkerLoss

# Processes rows 'a' to 'd' and dies, or hangs, while it processes 'c'.
WORKER = """
import os, sys, time
from retouch.outputs.in_flight import InFlight
output, how, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
in_flight, done = InFlight(output, "edit", seconds), {}
for keys in in_flight.groups("abcd"):
    with in_flight.mark(keys):
        with open(output + "/log", "a") as log:
            log.write("".join(keys) + "\\n")
        if "c" in keys:
            os._exit(9) if how == "die" else time.sleep(600)
        done |= {key: key.upper() for key in keys}
done |= {key: f"{key} {loss.alone} {loss.overdue}" for key, loss in in_flight.given_up.items()}
in_flight.clear("abcd")
print(",".join(done[key] for key in "abcd"))
"""


def worker(output: Path, how: str, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WORKER, str(output), how, str(seconds)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "seconds", "code", "overdue"), [("die", 600, 9, False), ("hang", 0.3, EXIT_CODE, True)]
)
def test_the_row_that_kills_its_worker_is_found_and_the_others_are_done(
    tmp_path: Path, how: str, seconds: float, code: int, overdue: bool
) -> None:
    ends = [worker(tmp_path, how, seconds) for _ in range(1 + MAX_DEATHS)]
    assert [end.returncode for end in ends] == [code] * (1 + MAX_DEATHS)
    if overdue:
        assert "within 0.3 s; rows in flight: 'a', 'b', 'c', 'd'" in ends[0].stderr
        assert "within 0.3 s; rows in flight: 'c'" in ends[1].stderr
    last = worker(tmp_path, how, seconds)
    assert last.stdout.strip() == f"A,B,c {MAX_DEATHS} {overdue},D", last.stderr
    tried = (tmp_path / "log").read_text().split()
    assert tried[:4] == ["abcd", "a", "b", "c"]
    assert tried.count("c") == MAX_DEATHS
    assert storage.list_files(str(tmp_path / in_flight.FOLDER)) == []


def test_rows_are_marked_on_storage_while_they_are_processed_and_not_after(place: str) -> None:
    in_flight, seen = InFlight(place, "edit", 600), []
    for keys in in_flight.groups("ab"):
        with in_flight.mark(keys):
            seen.append((keys, InFlight(place, "edit").find_losses(["b", "z"])))
    assert seen == [(["a", "b"], {"b": WorkerLoss(0, False)})]
    assert in_flight.find_losses("ab") == {}


def test_an_exception_is_no_death(tmp_path: Path) -> None:
    markers = InFlight(str(tmp_path), "edit")
    with pytest.raises(ValueError, match="wrong"), markers.mark(["a"]):
        raise ValueError("wrong")
    assert markers.find_losses(["a"]) == {}


def test_deaths_of_one_stage_are_not_those_of_another(tmp_path: Path) -> None:
    _leave_behind(tmp_path, "decode")
    assert InFlight(str(tmp_path), "edit").find_losses(["a"]) == {}
    assert InFlight(str(tmp_path), "decode").find_losses(["a"]) == {"a": WorkerLoss(0, False)}


def test_without_an_output_there_are_no_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    markers = InFlight(None, "edit", 600)
    for keys in markers.groups("ab"):
        with markers.mark(keys):
            assert keys == ["a", "b"]
    assert os.listdir(tmp_path) == []


def test_sweeping_deletes_all_markers(tmp_path: Path) -> None:
    _leave_behind(tmp_path, "edit")
    in_flight.sweep(str(tmp_path))
    assert InFlight(str(tmp_path), "edit").find_losses(["a"]) == {}


def _leave_behind(folder: Path, stage: str) -> None:
    code = (
        "import os, sys; from retouch.outputs.in_flight import InFlight\n"
        "with InFlight(sys.argv[1], sys.argv[2]).mark(['a', 'b']): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), stage], check=False)
