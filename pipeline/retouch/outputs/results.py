"""The results table: one row per request, append-only, and the only state that a run resumes from.

``OUTPUT/results/part-EPOCH-HASH.parquet`` holds the rows of one block. EPOCH is the number of the run that wrote it,
HASH identifies the block's keys and fingerprints, so a retried task overwrites its own file. ``compact`` merges them
into ``all-EPOCH-HASH.parquet``. If a key has several rows, the one of the highest epoch counts. That follows from the
files' names alone, so a table has exactly one reading even if a run was killed at any moment.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import storage
from retouch.errors import ObjectMissing
from retouch.manifests import row_sets
from retouch.outputs import image_paths, result_files
from retouch.outputs.result_files import FOLDER, epoch_of, files

__all__ = ["FOLDER", "epoch_of", "files"]

REMOVED: Final = "removed"  # rows of requests that have left the manifest
REQUESTS_FILE: Final = "requests.parquet"
IMAGES: Final = ("output", "sha256", "runners_up")  # columns that refer to images
THREADS: Final = 16


def write_block(output: str, rows: pa.Table, *, epoch: int) -> str:
    """Commit a block's result rows as one file, atomically.

    Args:
        output: the output folder.
        rows: one per key, with the run's ``results_schema``; all blocks of a run have the same.
        epoch: the run's number, from ``next_epoch``.

    Returns:
        The file's path relative to the output.

    Raises:
        StorageError: nothing was committed.
    """
    named = zip(rows["key"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True)
    path = f"{FOLDER}/part-{epoch:06d}-{image_paths.rows_digest(named)}.parquet"
    storage.write_table(storage.join(output, path), rows)
    return path


def next_epoch(output: str) -> int:
    """Return the number for a run that starts now: above all in the table, so that its rows will count."""
    return 1 + max((epoch_of(file) for file in files(output)), default=0)


def read(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the results, one row per key, sorted by key. Columns that a file lacks are null in its rows.

    Args:
        output: the output folder; the table is empty if it has no results.
        columns: names to read; those that no file has are left out.

    Raises:
        StorageError: a file cannot be read.
        OutputError: a column's types in two files are incompatible.
    """
    return _read(files(output), columns)


def read_done(output: str, only: Collection[str] | None = None) -> pa.Table:
    """Return ``key``, ``fingerprint`` and ``status`` of every row that is done, or of those in some of ``files``."""
    return _read(files(output) if only is None else sorted(only), ["key", "fingerprint", "status"])


def write_requests(output: str, requests: pa.Table, *, whole: bool = False) -> None:
    """Record the requests of a run, which ``verify`` compares the results with.

    Earlier requests that are not repeated are kept if they are done, so that a run with a limit does not turn the other
    rows into orphans. Those that are neither repeated nor done are dropped.

    Args:
        output: the output folder.
        requests: columns ``key`` and ``fingerprint``.
        whole: they are the whole manifest, so that an earlier request that is missing has left it; ``retire`` handles
            its row.
    """
    new = row_sets.of(requests).cast(row_sets.SCHEMA)
    earlier = row_sets.empty() if whole else row_sets.without_keys(read_requests(output), new)
    if earlier.num_rows:
        earlier = row_sets.with_keys(earlier, read_done(output))
    storage.write_table(storage.join(output, REQUESTS_FILE), pa.concat_tables([new, earlier]))


def read_requests(output: str) -> pa.Table:
    """Return ``key`` and ``fingerprint`` of every requested row; empty if no run has started."""
    try:
        data = storage.read_bytes(storage.join(output, REQUESTS_FILE))
    except ObjectMissing:
        return row_sets.empty()
    return pq.read_table(io.BytesIO(data)).cast(row_sets.SCHEMA)


def retire(output: str, requests: pa.Table, *, epoch: int) -> int:
    """Move the rows of requests that have left the manifest to ``removed/``; their images stay.

    Only one process may call it. If it is killed, rows may be in both places, and the next call finishes the move.

    Args:
        output: the output folder.
        requests: with the ``key`` of every row of the whole manifest.
        epoch: the run's number.

    Returns:
        The number of rows moved.
    """
    present = files(output)
    table = result_files.read(present, result_files.DECIDING)
    current = result_files.current_rows(table)
    stays = pc.is_in(table["key"].take(current), value_set=requests["key"])
    gone = current.filter(pc.invert(stays))
    if not len(gone):
        return 0
    for rows in result_files.stream_rows(present, result_files.row_mask(table, gone)):
        path = storage.join(output, REMOVED, f"{epoch:06d}-{row_sets.digest(rows)}.parquet")
        storage.write_table(path, rows)
    result_files.merge(output, present, result_files.row_mask(table, current.filter(stays)), epoch)
    return len(gone)


def read_removed(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the last row of each request that left the manifest, sorted by key; columns as in ``read``."""
    return _read(sorted(storage.list_files(storage.join(output, REMOVED), ".parquet")), columns)


def compact(output: str) -> None:
    """Merge the files, so that any Parquet reader finds each key once. Only one process may call it, after the work.

    The merged files are written before the others are deleted and hold the rows that count, so a kill changes no
    reading and the next call finishes the work. A table that is merged already is left alone.
    """
    present = files(output)
    if not present:
        return
    table = result_files.read(present, result_files.DECIDING)
    current = result_files.current_rows(table)
    merged = len(present) == 1 or not any(map(result_files.is_block_file, present))
    if merged and len(current) == table.num_rows:
        return
    result_files.merge(output, present, result_files.row_mask(table, current), max(map(epoch_of, present)))


def sweep(output: str, check_lease: Callable[[], None] = lambda: None) -> tuple[str, ...]:
    """Delete the images that no row refers to, and return their paths.

    A killed run left them before it could commit, or their rows were superseded. Only one process may call it, after
    ``compact``. Files with names that no sink gives are kept.

    Args:
        output: the output folder.
        check_lease: called before anything is deleted; raises if a newer run may have written images.
    """
    orphans = tuple(path for path in orphan_images(output, read(output, IMAGES)) if image_paths.is_generated(path))
    check_lease()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda path: storage.delete(storage.join(output, path)), orphans))
    return orphans


def orphan_images(output: str, rows: pa.Table) -> tuple[str, ...]:
    """Return the files in the images' folder that neither these rows nor removed ones refer to, sorted.

    Args:
        output: the output folder.
        rows: its results, with the columns ``IMAGES``.
    """
    referenced = image_files(rows) | image_files(read_removed(output, IMAGES))
    folder = storage.join(output, image_paths.IMAGES)
    present = (storage.join(image_paths.IMAGES, file[len(folder) :]) for file in storage.list_files(folder))
    return tuple(sorted(set(present).difference(referenced)))


def image_hashes(rows: pa.Table) -> dict[str, str]:
    """Return path to sha256 of every image that the rows refer to, runners-up included."""
    found: dict[str, str] = {}
    for images in _images(rows):
        found |= zip(images["output"].to_pylist(), pc.fill_null(images["sha256"], "").to_pylist(), strict=True)
    return found


def image_files(rows: pa.Table) -> set[str]:
    """Return the files that hold the rows' images; their paths are relative or absolute as in the rows."""
    found: set[str] = set()
    for images in _images(rows):
        paths = pc.list_element(pc.split_pattern(images["output"], image_paths.MEMBER, max_splits=1), 0)
        found |= set(pc.unique(paths).to_pylist())
    return found


def count_statuses(statuses: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each status occurs, in alphabetical order."""
    counts = pc.value_counts(statuses)
    return dict(sorted(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def _images(rows: pa.Table) -> Iterator[pa.Table]:
    """Yield the columns ``output`` and ``sha256`` of the best images, then of the runners-up."""
    yield rows.select(["output", "sha256"]).filter(pc.is_valid(rows["output"]))
    if "runners_up" in rows.column_names:
        others = pc.list_flatten(rows["runners_up"])
        columns = {name: pc.struct_field(others, name) for name in ("output", "sha256")}
        yield pa.table(columns).filter(pc.is_valid(columns["output"]))


def _read(paths: Sequence[str], columns: Sequence[str] | None) -> pa.Table:
    wanted = None if columns is None else list(dict.fromkeys([*result_files.DECIDING, *columns]))
    table = result_files.read(paths, wanted)
    table = table.take(result_files.current_rows(table)).drop_columns([result_files.EPOCH, result_files.ORDER])
    return table if columns is None else table.select([name for name in columns if name in table.column_names])
