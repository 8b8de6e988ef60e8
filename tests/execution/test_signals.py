from __future__ import annotations

import signal
import threading

import pytest
from retouch.execution.signals import terminated_like_interrupted


def test_a_schedulers_stop_arrives_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), terminated_like_interrupted():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_whoever_handled_the_signal_before_does_again() -> None:
    def theirs(*_: object) -> None:
        """Another's handler."""

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with terminated_like_interrupted():
            assert signal.getsignal(signal.SIGTERM) is not theirs
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with terminated_like_interrupted():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
    assert signal.getsignal(signal.SIGTERM) is before
