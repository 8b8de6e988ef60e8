"""Whoever starts a run hears how far it is: people a bar or lines, programs objects, the night nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from retouch.errors import ConfigError
from retouch.execution.edit import run
from retouch.execution.progress import INTERVAL, Mode, ProgressTracker, Reporter, mode_of, tracking
from retouch.schema import STATUSES
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset


class Clock:
    """A clock that goes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def rows(*statuses: str, seconds: float = 1.0) -> list[dict[str, Any]]:
    failed = {"error_type": "EditError", "error_message": "no"}
    fine = {"error_type": None, "error_message": None}
    return [{"status": s, "edit_seconds": seconds, **(fine if s == "success" else failed)} for s in statuses]


def told(mode: Mode = "plain", terminal: bool = False) -> tuple[ProgressTracker, Clock, io.StringIO]:
    out, clock = io.StringIO(), Clock()
    reporter = Reporter(Console(file=out, force_terminal=terminal, width=200), mode)
    return ProgressTracker("quickstart", 32, 8, reporter, clock), clock, out


def test_a_line_an_interval_says_the_rows_by_status_the_rate_the_time_left_and_how_busy_editors_are() -> None:
    counts, clock, out = told()
    clock.now += 5
    counts.on_cluster_ready(2)
    clock.now += 5
    counts.add(rows("success", "success"))
    clock.now += 1
    counts.add(rows("failed_to_edit"))
    assert out.getvalue().count("\n") == 1, "the first answers, and then none before an interval is over"
    clock.now += INTERVAL - 1
    counts.add(rows("success"))
    # Of 24 rows 4 in 20 s, but 2 in the 10 s since the first ones; 4 s of work in two editors' 15 s.
    assert out.getvalue().splitlines()[-1] == (
        "quickstart: 12/32 rows, 3 success, 1 failed_to_edit, 0.20 images/s, 1:40 left, editors 13% busy"
    )
    assert (counts.done, counts.failed, counts.most_common_errors()) == (4, 1, "1 x EditError: no")


def test_nothing_is_promised_before_the_first_answer_and_long_waits_have_hours() -> None:
    counts, clock, _ = told()
    clock.now += 3600
    assert counts.line() == "quickstart: 8/32 rows, 0.00 images/s"
    counts.add(rows("success"))
    assert "23:00:00 left" in counts.line()
    assert counts.busy is None


def test_editors_that_joined_later_make_none_of_them_more_than_busy() -> None:
    counts, clock, _ = told()
    counts.on_cluster_ready(1)
    clock.now += 2
    counts.add(rows("success", seconds=9.0))
    assert counts.busy == 1.0


def test_programs_get_one_object_a_line_and_all_statuses(tmp_path: Path) -> None:
    out = io.StringIO()
    job = painter_job(tmp_path, write_dataset(tmp_path, 4, {3: "raise"}), max_failure_rate=1.0)
    run(job, executor="local", console=Console(file=out), progress="json")
    first, *_, last = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (first["event"], first["answered"], first["seconds_left"]) == ("progress", 0, None)
    assert (last["job"], last["rows"], last["answered"], last["answered_now"]) == ("painted", 4, 4, 4)
    assert set(last["statuses"]) == set(STATUSES)
    assert (last["statuses"]["success"], last["statuses"]["failed_to_edit"]) == (3, 1)
    assert last["images_per_second"] > 0
    assert 0 <= last["busy"] <= 1
    assert last["seconds_left"] == 0


@pytest.mark.parametrize("mode", ["auto", "plain", "json", "quiet"])
def test_a_note_is_said_as_it_is_in_every_mode_but_the_quiet_one(mode: Mode) -> None:
    out = io.StringIO()
    Reporter(Console(file=out), mode).message("waits for [bold]GPUs[/bold] :smile: " + "x" * 200)
    said = out.getvalue()
    text = "waits for [bold]GPUs[/bold] :smile: " + "x" * 200
    wanted = {"json": json.dumps({"event": "note", "text": text}) + "\n", "quiet": ""}
    assert said == wanted.get(mode, f"{text}\n")


def test_a_terminal_gets_a_bar_with_the_true_total_and_colour_and_plain_gets_neither() -> None:
    for mode, bar in (("auto", True), ("plain", False)):
        out = io.StringIO()
        reporter = Reporter(Console(file=out, force_terminal=True, width=160, color_system="standard"), mode)
        with tracking("quickstart", 32, 8, reporter) as counts:
            counts.on_cluster_ready(1)
            counts.add(rows("success", "failed_to_load"))
        assert ("10/32" in out.getvalue()) == bar
        assert ("\x1b[" in out.getvalue()) == bar
        assert ("1 success, 1 failed_to_load" in out.getvalue()) == bar


def test_elsewhere_there_is_no_colour_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with tracking("quickstart", 32, 8, Reporter(Console(file=out))) as counts:
        counts.add(rows("success"))
    assert "\x1b" not in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    with tracking("quickstart", 32, 8, Reporter(Console(file=out, force_terminal=True))) as counts:
        counts.add(rows("success"))
    assert "\x1b[3" not in out.getvalue()


def test_a_way_that_there_is_not_is_refused() -> None:
    assert mode_of("json") == "json"
    with pytest.raises(ConfigError, match="unknown progress mode 'fancy'; choose one of: auto, plain, json, quiet"):
        mode_of("fancy")
