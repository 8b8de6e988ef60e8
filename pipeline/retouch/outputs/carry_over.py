"""Rows carried over from earlier runs of the same job, if nothing that determines their result has changed.

A nightly job with ``{date}`` in its output finds the outputs of the nights before. A row with the same fingerprint
there (request, contents of its files, editor, parameters, weights) is not edited again: its result row is copied, and
``output`` refers to the image in the earlier output.
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
from retouch.outputs.run_record import RUN_FILE, SUMMARY_FILE, differences, read_run
from retouch.schema import FAILED_QUALITY, FAILURES

MAY_DIFFER: Final = ("manifest", "name")  # of a run's identity: every night may have a manifest of its own
_COLUMNS: Final = ("key", "fingerprint", "status", "error_type", "attempts")
RetryFilter = Callable[[pa.Table], pa.ChunkedArray]  # result rows to a mask of those that are edited again


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run of the same job."""

    output: str
    started: str
    finished: bool


def find_earlier_runs(pattern: str, output: str, identity: Mapping[str, Any]) -> tuple[list[EarlierRun], list[str]]:
    """Return the earlier runs of a job, newest first, and the outputs of other jobs, each with the difference.

    Args:
        pattern: an output, or a glob of outputs.
        output: the run's own, which is skipped.
        identity: what all runs of the job have in common, as ``run.json`` records it.

    Raises:
        StorageError: an output cannot be read.
    """
    found, refused = [], []
    mine = _comparable(identity)
    for candidate in _outputs(pattern):
        if image_paths.absolute(candidate) == image_paths.absolute(output):
            continue
        try:
            record = read_run(candidate)
        except OutputError:  # of a training job, or partly deleted
            continue
        changes = list(differences(_comparable(record.get("decides", {})), mine))
        if changes:
            refused.append(f"{candidate} ({changes[0]}{' and more' if len(changes) > 1 else ''})")
            continue
        finished = storage.exists(storage.join(candidate, SUMMARY_FILE))
        found.append(EarlierRun(candidate, str(record.get("started", "")), finished))
    return sorted(found, key=lambda run: (run.started, run.output), reverse=True), refused


def reusable_runs(runs: Sequence[EarlierRun]) -> Iterator[EarlierRun]:
    """Yield the runs to reuse rows from, newest first, up to and including the first that finished."""
    for run in runs:
        yield run
        if run.finished:
            return


def wait_for_runs(runs: Sequence[EarlierRun]) -> None:
    """Wait until unfinished runs to reuse rows from have ended or are known to be dead.

    Raises:
        Busy: one is still writing; its rows would be paid for twice.
    """
    for run in reusable_runs(runs):
        if not run.finished:
            lease.wait_until_over(run.output)


def reuse_rows(todo: pa.Table, runs: Sequence[EarlierRun], schema: pa.Schema, retried: RetryFilter) -> pa.Table:
    """Return result rows for the requests that an earlier run finished and that have not changed since.

    Args:
        todo: requests with ``key`` and ``fingerprint``, and this run's values of the caller's columns.
        runs: earlier runs, newest first.
        schema: of this run's results.
        retried: selects the rows that are edited again.
    """
    reused = [schema.empty_table()]
    for run in reusable_runs(runs):
        if not todo.num_rows:
            break
        same = _unchanged(todo, results.read(run.output, list(_COLUMNS)), retried)
        if same.num_rows:  # only then are all columns read
            reused.append(_as_rows(results.read(run.output), run.output, same, schema))
            todo = row_sets.without_keys(todo, same)
    return pa.concat_tables(reused)


def restore_rows(todo: pa.Table, removed: pa.Table, schema: pa.Schema, retried: RetryFilter) -> pa.Table:
    """Return result rows for requests that had left the manifest and are back, from ``results.read_removed``."""
    same = _unchanged(todo, removed, retried)
    return _as_rows(removed, None, same, schema) if same.num_rows else schema.empty_table()


def retry_filter(retry_failed: bool, retry_errors: Collection[str], max_candidates: int = 0) -> RetryFilter:
    """Return a filter that selects the result rows to edit again, by ``status``, ``error_type`` and ``attempts``.

    Args:
        retry_failed: select every failure.
        retry_errors: select failures of these error classes.
        max_candidates: per row; select rows that missed the thresholds with fewer.
    """
    errors, failures = pa.array(sorted(retry_errors), pa.string()), pa.array(FAILURES, pa.string())

    def retried(rows: pa.Table) -> pa.ChunkedArray:
        missed = pc.equal(rows["status"], FAILED_QUALITY)
        has_more = pc.and_(missed, pc.less(pc.fill_null(rows["attempts"], 0), max_candidates))
        selected = pc.or_(has_more, pc.is_in(rows["error_type"], errors))
        return pc.or_(selected, pc.is_in(rows["status"], failures)) if retry_failed else selected

    return retried


def _unchanged(todo: pa.Table, rows: pa.Table, retried: RetryFilter) -> pa.Table:
    """Return the requests that have a result row with the same fingerprint."""
    if not rows.num_rows:
        return todo.slice(0, 0)
    return todo.filter(row_sets.is_same(todo, rows.filter(pc.invert(retried(rows)))))


def _as_rows(rows: pa.Table, output: str | None, requests: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows of these requests as rows of this run, with its values of the caller's columns.

    If they are of another output, image paths become absolute and ``carried_from`` names it.
    """
    rows = rows.take(pc.index_in(requests["key"], value_set=rows["key"]))
    columns = []
    for field in schema:
        if field.name in requests.column_names and field.name not in ("key", "fingerprint"):
            column = requests[field.name]
        elif output is not None and field.name in _RELOCATED:
            values = [_RELOCATED[field.name](output, value) for value in _values(rows, field)]
            column = pa.chunked_array([pa.array(values, field.type)])
        elif field.name in rows.column_names:
            column = rows[field.name].cast(field.type)
        else:
            column = pa.nulls(rows.num_rows, field.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def _values(rows: pa.Table, field: pa.Field) -> list[Any]:
    return rows[field.name].to_pylist() if field.name in rows.column_names else [None] * rows.num_rows


def _locate(output: str, path: str | None) -> str | None:
    return None if path is None else image_paths.locate(output, path)


def _locate_all(output: str, images: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    return None if images is None else [{**image, "output": _locate(output, image["output"])} for image in images]


# Columns whose values are relative to their output, with a function of that output and a value.
_RELOCATED: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "output": _locate,
    "runners_up": _locate_all,
    "carried_from": lambda output, earlier: earlier or image_paths.absolute(output),
}


def _outputs(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?["):
        return [pattern] if storage.exists(storage.join(pattern, RUN_FILE)) else []
    return [file.removesuffix(f"/{RUN_FILE}") for file in storage.glob(storage.join(pattern, RUN_FILE))]


def _comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in MAY_DIFFER}
