"""What every kind of job does around its work: signals, the ``stopped`` event, JSON records."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

from retouch import storage
from retouch.errors import Interrupted
from retouch.outputs.event_log import EventLog
from retouch.redaction import redacted, redacted_all

Executor = Literal["ray", "local"]
RESUME: Final = "run the same command again to resume"
_REASON: Final = 500  # characters of an unexpected error in the event log


@contextmanager
def stop_recorded(
    events: EventLog, done: Callable[[], str], facts: Callable[[], Mapping[str, Any]] = dict
) -> Iterator[None]:
    """Write a ``stopped`` event if the work inside is interrupted or fails. SIGTERM interrupts it as Ctrl-C does.

    Args:
        events: log of the job's output.
        done: what is finished by then, for the message: ``1 of 2 targets done``.
        facts: further fields of the event.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; what is committed is kept.
    """
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt:
        events.write("stopped", reason="interrupted", **facts())
        raise Interrupted(f"stopped with {done()}; {RESUME}") from None
    except Interrupted as error:
        events.write("stopped", reason=str(error), **facts())
        raise
    except Exception as error:
        # Redacted before it is cut: half a credential would not be recognized.
        reason = redacted(f"{type(error).__name__}: {error}")[:_REASON]
        events.write("stopped", reason=reason, **facts())
        raise


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, by which schedulers stop a process."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # Not the main thread: the program that runs us there handles signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_record(output: str, file: str, record: Mapping[str, Any]) -> None:
    """Write a JSON file of an output, credentials masked."""
    storage.write_bytes(storage.join(output, file), json.dumps(redacted_all(record), indent=1).encode())
