"""The run's diary, ``events.jsonl`` in its output: what happened when, for those who come after the cluster is gone."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any, Final, Literal

from retouch import storage
from retouch.errors import ObjectMissing
from retouch.redaction import redacted_all

EVENTS_FILE: Final = "events.jsonl"
Put = Literal["at once", "seldom", "with the next"]
INTERVAL: Final = 30.0  # seconds; object stores cannot append, so the whole diary is put again


def read_events(output: str) -> list[dict[str, Any]]:
    """The diary of an output, oldest first; empty where there is none."""
    try:
        text = storage.read_bytes(storage.join(output, EVENTS_FILE)).decode()
    except ObjectMissing:
        return []
    return [json.loads(line) for line in text.splitlines()]


class Events:
    """Appends to the diary of earlier runs on the same output."""

    def __init__(self, output: str) -> None:
        self._uri = storage.join(output, EVENTS_FILE)
        try:
            self._text = storage.read_bytes(self._uri).decode()
        except ObjectMissing:
            self._text = ""
        self._put = 0.0

    def say(self, event: str, *, put: Put = "at once", **facts: Any) -> None:
        """Note an event.

        Args:
            event: its name.
            put: when it goes to storage: "seldom" is not within ``INTERVAL`` seconds after the last of its kind, "with
                the next" is for what another event follows at once.
            facts: of it.
        """
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._text += json.dumps({"time": stamp, "event": event, **redacted_all(facts)}) + "\n"
        due = put == "seldom" and time.monotonic() - self._put >= INTERVAL
        if put == "at once" or due:
            storage.write_bytes(self._uri, self._text.encode())
        if due:
            self._put = time.monotonic()
