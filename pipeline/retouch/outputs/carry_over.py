"""Answers of earlier runs of the same job, taken over by reference where nothing that decides them has changed.

A nightly job with ``{date}`` in its output finds last night's beside it. A row whose fingerprint is the same there
(request, contents of its files, editor, parameters, weights) is not edited again: tonight's table gets its row, whose
``output`` is the address of the image where it lies. Knows results as tables, and neither pixels nor executors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from retouch import storage
from retouch.errors import OutputError
from retouch.manifests import row_sets
from retouch.outputs import image_paths, lease, results
from retouch.outputs.run_record import RUN_FILE, differences, read_run
from retouch.schema import FAILED_QUALITY, FAILURES

FINISHED_FILE: Final = "summary.json"  # a run that came to its end has answered all that it was asked
MAY_DIFFER: Final = ("manifest", "name")  # of what decides a run: a night has a manifest of its own
_ANSWER: Final = ("key", "fingerprint", "status", "error_type", "attempts")
Again = Callable[[pa.Table], pa.ChunkedArray]  # of answers, which ones are asked for again


@dataclass(frozen=True)
class Earlier:
    """An earlier run of the same job."""

    output: str
    started: str
    finished: bool


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
        if image_paths.whole(there) == image_paths.whole(output):
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
        again: which answers are asked for again.
    """
    taken = [schema.empty_table()]
    for run in sources(runs):
        if not todo.num_rows:
            break
        same = _unchanged(todo, results.read(run.output, list(_ANSWER)), again)
        if same.num_rows:  # only then all columns are read
            taken.append(_as_rows(results.read(run.output), run.output, same, schema))
            todo = row_sets.without_keys(todo, same)
    return pa.concat_tables(taken)


def take_back(todo: pa.Table, removed: pa.Table, schema: pa.Schema, again: Again) -> pa.Table:
    """Results rows of requests that had left the manifest and are back, from ``results.read_removed``."""
    same = _unchanged(todo, removed, again)
    return _as_rows(removed, None, same, schema) if same.num_rows else schema.empty_table()


def answered_again(retry_failed: bool, retry_errors: Collection[str], tries: int = 0) -> Again:
    """Which answers are asked for again, told by ``status``, ``error_type`` and ``attempts``.

    Args:
        retry_failed: every failure is.
        retry_errors: so are those of these classes.
        tries: candidates that the job allows a row; one that missed the thresholds with fewer has some left.
    """
    errors, failures = pa.array(sorted(retry_errors), pa.string()), pa.array(FAILURES, pa.string())

    def again(answers: pa.Table) -> pa.ChunkedArray:
        missed = pc.equal(answers["status"], FAILED_QUALITY)
        has_more = pc.and_(missed, pc.less(pc.fill_null(answers["attempts"], 0), tries))
        asked = pc.or_(has_more, pc.is_in(answers["error_type"], errors))
        return pc.or_(asked, pc.is_in(answers["status"], failures)) if retry_failed else asked

    return again


def _unchanged(todo: pa.Table, answers: pa.Table, again: Again) -> pa.Table:
    """The requests whose answer stands for the same fingerprint."""
    if not answers.num_rows:
        return todo.slice(0, 0)
    return todo.filter(row_sets.is_same(todo, answers.filter(pc.invert(again(answers)))))


def _as_rows(answers: pa.Table, output: str | None, asked: pa.Table, schema: pa.Schema) -> pa.Table:
    """The answers to some requests as rows of this run, with the caller's columns of tonight.

    Where they are another output's, addresses of images become whole, and the rows say whose they are.
    """
    rows = answers.take(pc.index_in(asked["key"], value_set=answers["key"]))
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
    return None if address is None else image_paths.locate(output, address)


def _all_located(output: str, images: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if images is None else [{**image, "output": _located(output, image["output"])} for image in images]


# Columns that say where something lies: each cell, given the output that the row comes from.
_LOCATED: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "output": _located,
    "runners_up": _all_located,
    "carried_from": lambda output, by: by or image_paths.whole(output),
}


def _outputs(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?["):
        return [pattern] if storage.exists(storage.join(pattern, RUN_FILE)) else []
    return [file.removesuffix(f"/{RUN_FILE}") for file in storage.glob(storage.join(pattern, RUN_FILE))]


def _settled(decides: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in decides.items() if name not in MAY_DIFFER}
