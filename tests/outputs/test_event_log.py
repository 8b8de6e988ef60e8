"""Events are appended over calls, uploaded when they should be, and read as calls of the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from retouch.outputs import event_log
from retouch.outputs.event_log import EVENTS_FILE, EventLog, Worker, read_calls, read_events


def names(output: Path) -> list[str]:
    return [event["event"] for event in read_events(str(output))]


def test_a_second_call_appends_and_nothing_is_there_before_the_first(tmp_path: Path) -> None:
    assert read_events(str(tmp_path)) == []
    assert read_calls(str(tmp_path)) == []
    EventLog(str(tmp_path)).write("started", rows=1)
    EventLog(str(tmp_path)).write("finished")
    assert names(tmp_path) == ["started", "finished"]


def test_frequent_events_are_uploaded_by_interval_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EventLog(str(tmp_path))
    log.write("worker", flush="later")
    assert not (tmp_path / EVENTS_FILE).exists()
    log.write("answered", flush="by interval")
    log.write("answered", flush="by interval")
    assert names(tmp_path) == ["worker", "answered"], "the second came within the interval"
    monkeypatch.setattr(event_log, "INTERVAL", 0.0)
    log.write("answered", flush="by interval")
    log.write("retried", flush="later")
    assert names(tmp_path) == ["worker", "answered", "answered", "answered"]
    log.write("finished")
    assert names(tmp_path)[-2:] == ["retried", "finished"]


def test_credentials_do_not_reach_the_log(tmp_path: Path) -> None:
    EventLog(str(tmp_path)).write(
        "stopped", reason="cannot read https://u:secret@host/x?X-Amz-Signature=abcdef0123456789"
    )
    assert "secret" not in (tmp_path / EVENTS_FILE).read_text()


def test_calls_have_their_own_workers_blocks_and_end(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path))
    log.write("waiting", reason="before any call")
    log.write("started")
    log.write("crew", actors=2)
    log.write("worker", host="a", pid=1, device="cpu", replaced=False, loaded=1.0)
    log.write("answered", rows=3, edit_seconds=0.5, spent={"seconds": {"cpu": 1.0}})
    log.write("retried", rows=2)
    log.write("answered", rows=4, spent={"seconds": {"cpu": 2.0}})
    log.write("stopped", reason="interrupted")
    log.write("started")
    stopped, running = read_calls(str(tmp_path))
    assert (stopped.state, stopped.reason, stopped.actors, stopped.retried) == ("stopped", "interrupted", 2, 2)
    assert stopped.workers == (Worker("a", 1, "cpu", replaced=False),)
    assert [(block.rows, block.edit_seconds) for block in stopped.blocks] == [(3, 0.5), (4, None)]
    assert (stopped.rows, stopped.spent) == (7, {"seconds": {"cpu": 2.0}})
    assert stopped.start <= stopped.blocks[0].time <= running.start
    assert (running.state, running.reason, running.blocks, running.spent) == ("started", None, (), None)
