"""``run.json``: the record of the job that an output belongs to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from retouch import storage
from retouch.errors import OutputError, StorageError

RUN_FILE: Final = "run.json"
SUMMARY_FILE: Final = "summary.json"  # only a run that finished has one


def read_run(output: str) -> dict[str, Any]:
    """Return the record of an edit job's output.

    Raises:
        OutputError: there is no record, or it is of a job of another kind.
    """
    try:
        record: dict[str, Any] = json.loads(storage.read_bytes(storage.join(output, RUN_FILE)))
    except StorageError as error:
        raise OutputError(f"{output} holds no run ({RUN_FILE}: {error}); give the output folder of one") from None
    if "rows" not in record:
        kind = record.get("kind", "unknown")
        raise OutputError(f"{output} holds a job of kind {kind}, which has no rows; its progress is in events.jsonl")
    return record


def differences(theirs: Any, mine: Any, path: str = "") -> Iterator[str]:
    """Yield ``path: old -> new`` for every leaf that differs."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for name in sorted({*theirs, *mine}):
            yield from differences(theirs.get(name), mine.get(name), f"{path}.{name}" if path else name)
    elif theirs != mine:
        yield f"{path}: {json.dumps(theirs)} -> {json.dumps(mine)}"


def version_of(distribution: str) -> str:
    """Return the installed version of a package."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
