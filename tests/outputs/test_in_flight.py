"""A worker that dies leaves its note; these tests kill real processes to see it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from retouch import storage
from retouch.outputs import in_flight
from retouch.outputs.in_flight import EXIT_CODE, TRIES, Flights, Loss

# Does rows 'a' to 'd' in turns and dies, or hangs, with 'c' in hand.
WORKER = """
import os, sys, time
from retouch.outputs.in_flight import Flights
from retouch import storage
output, how, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
def work(rows):
    with open(output + "/log", "a") as log:
        log.write("".join(rows) + "\\n")
    if "c" in rows:
        os._exit(9) if how == "die" else time.sleep(600)
    return [row.upper() for row in rows]
def lost(row, loss):
    return f"{row} {loss.alone} {loss.overdue}"
done = Flights(output, "edit", seconds).in_turns("abcd", str, work, lost)
print(",".join(done))
"""


def worker(output: Path, how: str, seconds: float = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WORKER, str(output), how, str(seconds)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("how", "seconds", "code", "overdue"), [("die", 600, 9, False), ("hang", 0.3, EXIT_CODE, True)]
)
def test_the_row_that_kills_its_worker_is_found_and_the_others_are_done(
    tmp_path: Path, how: str, seconds: float, code: int, overdue: bool
) -> None:
    ends = [worker(tmp_path, how, seconds) for _ in range(1 + TRIES)]
    assert [end.returncode for end in ends] == [code] * (1 + TRIES)
    if overdue:
        assert "after 0.3 s with rows 'a', 'b', 'c', 'd' in hand" in ends[0].stderr
        assert "after 0.3 s with rows 'c' in hand" in ends[1].stderr
    last = worker(tmp_path, how, seconds)
    assert last.stdout.strip() == f"A,B,c {TRIES} {overdue},D", last.stderr
    tried = (tmp_path / "log").read_text().split()
    assert tried[:4] == ["abcd", "a", "b", "c"]
    assert tried.count("c") == TRIES
    assert storage.list_files(str(tmp_path / in_flight.FOLDER)) == []


def test_rows_in_hand_are_on_storage_while_they_are_worked_on_and_not_after(place: str) -> None:
    notes, seen = Flights(place, "edit", 600), []

    def work(rows: Sequence[str]) -> list[str]:
        seen.append(Flights(place, "edit").losses(["b", "z"]))
        return list(rows)

    assert notes.in_turns("ab", str, work, lambda row, loss: "") == ["a", "b"]
    assert seen == [{"b": Loss(0, False)}]
    assert notes.losses("ab") == {}


def test_an_exception_is_no_death(tmp_path: Path) -> None:
    notes = Flights(str(tmp_path), "edit")
    with pytest.raises(ValueError, match="wrong"), notes.over(["a"]):
        raise ValueError("wrong")
    assert notes.losses(["a"]) == {}


def test_deaths_of_one_stage_are_not_those_of_another(tmp_path: Path) -> None:
    _leave_behind(tmp_path, "decode")
    assert Flights(str(tmp_path), "edit").losses(["a"]) == {}
    assert Flights(str(tmp_path), "decode").losses(["a"]) == {"a": Loss(0, False)}


def test_without_an_output_nothing_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notes = Flights(None, "edit", 600)
    assert notes.in_turns("ab", str, lambda rows: list(rows), lambda row, loss: "") == ["a", "b"]
    assert os.listdir(tmp_path) == []


def test_sweeping_takes_all_notes_away(tmp_path: Path) -> None:
    _leave_behind(tmp_path, "edit")
    in_flight.sweep(str(tmp_path))
    assert Flights(str(tmp_path), "edit").losses(["a"]) == {}


def _leave_behind(folder: Path, stage: str) -> None:
    code = (
        "import os, sys; from retouch.outputs.in_flight import Flights\n"
        "with Flights(sys.argv[1], sys.argv[2]).over(['a', 'b']): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), stage], check=False)
