from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from retouch.errors import Busy, Interrupted
from retouch.execution.lifecycle import RESUME, sigterm_as_interrupt, stop_recorded, write_record
from retouch.outputs.event_log import EventLog, read_events


def stopped(output: Path) -> dict[str, object]:
    """The only event of an output, without its time."""
    (event,) = read_events(str(output))
    del event["time"]
    return event


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


def send_sigterm() -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("interrupt", [press_ctrl_c, send_sigterm])
def test_an_interruption_is_recorded_and_its_message_has_how_to_resume(
    tmp_path: Path, interrupt: Callable[[], None]
) -> None:
    def work() -> None:
        done: list[str] = []
        with stop_recorded(
            EventLog(str(tmp_path)), lambda: f"{len(done)} of 2 targets done", lambda: {"targets": list(done)}
        ):
            done.append("cat")
            interrupt()

    with pytest.raises(Interrupted, match=rf"^stopped with 1 of 2 targets done; {RESUME}$"):
        work()
    assert stopped(tmp_path) == {"event": "stopped", "reason": "interrupted", "targets": ["cat"]}


def test_an_interruption_that_has_its_message_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(Busy, match=r"^another run"), stop_recorded(EventLog(str(tmp_path)), lambda: "nothing"):
        raise Busy("another run is at work")
    assert stopped(tmp_path) == {"event": "stopped", "reason": "another run is at work"}


def test_an_unexpected_error_is_recorded_by_type_without_credentials_and_raised(tmp_path: Path) -> None:
    url = "https://user:secret-word@example.com/a" + "x" * 600
    with pytest.raises(ValueError, match="secret"), stop_recorded(EventLog(str(tmp_path)), lambda: "nothing"):
        raise ValueError(f"cannot read {url}")
    reason = str(stopped(tmp_path)["reason"])
    assert reason.startswith("ValueError: cannot read https://")
    assert "secret-word" not in reason
    assert len(reason) == 500


def test_work_that_ends_leaves_no_event(tmp_path: Path) -> None:
    with stop_recorded(EventLog(str(tmp_path)), lambda: "nothing"):
        pass
    assert read_events(str(tmp_path)) == []


def test_the_previous_handler_of_sigterm_is_restored() -> None:
    def theirs(*_: object) -> None:
        """A handler of the surrounding program."""

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
            send_sigterm()
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with sigterm_as_interrupt():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_record_is_json_without_credentials(tmp_path: Path) -> None:
    write_record(str(tmp_path), "run.json", {"manifest": "https://user:secret-word@example.com/rows.parquet"})
    text = (tmp_path / "run.json").read_text()
    assert "secret-word" not in text
    assert json.loads(text)["manifest"].endswith("@example.com/rows.parquet")
