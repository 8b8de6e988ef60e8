"""Answers of earlier runs of the same job, taken over by reference where nothing that decides them has changed.

A nightly job with ``{date}`` in its output finds last night's beside it. A row whose fingerprint is the same there
(request, contents of its files, editor, parameters, weights) is not edited again: tonight's table gets its row, whose
``output`` is the address of the image where it lies. Knows results as tables, and neither pixels nor executors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from pipeline import addresses, lease, results, storage
from pipeline.errors import OutputError
from pipeline.record import RUN_FILE, differences, read_run
from pipeline.schema import FAILED_QUALITY, FAILURES

FINISHED_FILE: Final = "summary.json"  # a run that came to its end has answered all that it was asked
MAY_DIFFER: Final = ("manifest", "name")  # of what decides a run: a night has a manifest of its own
_ANSWER: Final = ("key", "fingerprint", "status", "error_type", "attempts")
Again = Callable[
    [str, str, int | None], bool
]  # whether an answer of a status, error class and number of tries is asked again


@dataclass(frozen=True)
class Earlier:
    """An earlier run of the same job."""

    output: str
    started: str
    finished: bool


@dataclass(frozen=True)
class Carried:
    """What is taken over, and from where."""

    rows: pa.Table  # of the results, complete
    before: Mapping[str, str] = field(default_factory=dict)  # key to fingerprint of what the newest run was asked for
    newest: str | None = None  # its output; None where there is none
    refused: tuple[str, ...] = ()  # outputs of another job, each with what differs


def earlier(pattern: str, output: str, decides: Mapping[str, Any]) -> tuple[list[Earlier], list[str]]:
    """The earlier runs of a job, the newest first, and those that are of another job, each with the reason.

    Args:
        pattern: an output, or a glob of outputs.
        output: the run's own, which is none of them.
        decides: what all runs of the job have in common, as ``run.json`` records it.

    Raises:
        StorageError: what is there cannot be told.
    """
    found, refused = [], []
    mine = _settled(decides)
    for there in _outputs(pattern):
        if addresses.whole(there) == addresses.whole(output):
            continue
        try:
            record = read_run(there)
        except OutputError:  # of a training, or half deleted
            continue
        changes = list(differences(_settled(record.get("decides", {})), mine))
        if changes:
            refused.append(f"{there} ({changes[0]}{' and more' if len(changes) > 1 else ''})")
            continue
        finished = storage.exists(storage.join(there, FINISHED_FILE))
        found.append(Earlier(there, str(record.get("started", "")), finished))
    return sorted(found, key=lambda run: (run.started, run.output), reverse=True), refused


def sources(runs: Sequence[Earlier]) -> Iterator[Earlier]:
    """Those whose answers count: the newest, and where it did not come to its end, those before it, until one did."""
    for run in runs:
        yield run
        if run.finished:
            return


def wait_for(runs: Sequence[Earlier]) -> None:
    """Let a run that is not through come to its end, or be known to be dead, before its rows are paid for again.

    Raises:
        Busy: it is at work.
    """
    for run in sources(runs):
        if not run.finished:
            lease.wait_until_over(run.output)


def take_over(todo: pa.Table, runs: Sequence[Earlier], schema: pa.Schema, again: Again) -> pa.Table:
    """Results rows, of ``schema``, of the requests that an earlier run answered and that have not changed since.

    Args:
        todo: requests with ``key`` and ``fingerprint``; their caller's columns are those of tonight.
        runs: earlier runs, the newest first.
        schema: of this run's results.
        again: whether an answer of this status, error class and number of tries is asked for again.
    """
    wanted = results.pairs(todo)
    parts = [schema.empty_table()]
    for run in sources(runs):
        if not wanted:
            break
        keys = _unchanged(results.read(run.output, list(_ANSWER)), wanted, again)
        if keys:  # only then all columns are read
            parts.append(_as_rows(results.read(run.output), keys, run.output, todo, schema))
            wanted = {key: fingerprint for key, fingerprint in wanted.items() if key not in keys}
    return pa.concat_tables(parts)


def take_back(todo: pa.Table, removed: pa.Table, schema: pa.Schema, again: Again) -> pa.Table:
    """Results rows of requests that had left the manifest and are back, from ``results.read_removed``."""
    keys = _unchanged(removed, results.pairs(todo), again)
    return _as_rows(removed, keys, None, todo, schema) if keys else schema.empty_table()


def answered_again(retry_failed: bool, retry_errors: Collection[str], tries: int = 0) -> Again:
    """Whether an answer of a status, an error class and a number of tries is asked for again.

    Args:
        retry_failed: every failure is.
        retry_errors: so are those of these classes.
        tries: candidates that the job allows a row; one that missed the thresholds with fewer has some left.
    """

    def again(status: str, error: str, tried: int | None) -> bool:
        has_more = status == FAILED_QUALITY and (tried or 0) < tries
        return has_more or (retry_failed and status in FAILURES) or error in retry_errors

    return again


def _unchanged(answers: pa.Table, wanted: Mapping[str, str], again: Again) -> set[str]:
    """Keys whose answer stands for the same fingerprint."""
    rows = zip(*(answers[name].to_pylist() for name in _ANSWER), strict=True)
    return {key for key, fingerprint, *answer in rows if wanted.get(key) == fingerprint and not again(*answer)}


def _as_rows(
    answers: pa.Table, keys: Collection[str], output: str | None, todo: pa.Table, schema: pa.Schema
) -> pa.Table:
    """The answers to these keys as rows of this run, with the caller's columns of tonight.

    Where they are another output's, addresses of images become whole, and the rows say whose they are.
    """
    place = {key: row for row, key in enumerate(answers["key"].to_pylist()) if key in keys}
    asked = todo.filter(pa.array([key in place for key in todo["key"].to_pylist()], pa.bool_()))
    rows = answers.take(pa.array([place[key] for key in asked["key"].to_pylist()], pa.int64()))
    columns = []
    for wanted in schema:
        if wanted.name in asked.column_names and wanted.name not in ("key", "fingerprint"):
            column = asked[wanted.name]
        elif output is not None and wanted.name in _LOCATED:
            located = [_LOCATED[wanted.name](output, cell) for cell in _column(rows, wanted)]
            column = pa.chunked_array([pa.array(located, wanted.type)])
        elif wanted.name in rows.column_names:
            column = rows[wanted.name].cast(wanted.type)
        else:
            column = pa.nulls(rows.num_rows, wanted.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def _column(rows: pa.Table, wanted: pa.Field) -> list[Any]:
    return rows[wanted.name].to_pylist() if wanted.name in rows.column_names else [None] * rows.num_rows


def _located(output: str, address: str | None) -> str | None:
    return None if address is None else addresses.locate(output, address)


def _all_located(output: str, images: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if images is None else [{**image, "output": _located(output, image["output"])} for image in images]


# Columns that say where something lies: each cell, given the output that the row comes from.
_LOCATED: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "output": _located,
    "runners_up": _all_located,
    "carried_from": lambda output, by: by or addresses.whole(output),
}


def _outputs(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?["):
        return [pattern] if storage.exists(storage.join(pattern, RUN_FILE)) else []
    return [file.removesuffix(f"/{RUN_FILE}") for file in storage.glob(storage.join(pattern, RUN_FILE))]


def _settled(decides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in decides.items() if name not in MAY_DIFFER}
