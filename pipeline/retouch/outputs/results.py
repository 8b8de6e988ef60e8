"""The results table: append-only, the only memory of a run. Knows neither pixels nor what decided them.

``OUTPUT/results/part-EPOCH-HASH.parquet`` holds the answers to one block. EPOCH is the number of the run that gave
them, HASH names the block's keys and fingerprints, so a retried task overwrites its own file. ``compact`` merges parts
into ``all-EPOCH-HASH.parquet``. Where a key is answered more than once, the answer of the highest epoch stands; that is
in the files' names, so a kill at any moment leaves a table with one reading.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import storage
from retouch.errors import ObjectMissing
from retouch.manifests import row_sets
from retouch.outputs import result_files
from retouch.outputs.image_paths import rows_digest
from retouch.outputs.result_files import FOLDER, epoch_of, files
from retouch.outputs.verify import (
    Verification,
    counted,
    digest_of,
    files_named,
    images_digest_of,
    images_of,
    is_ours,
    orphan_images,
    read_back,
)

__all__ = ["FOLDER", "epoch_of", "files"]

REMOVED: Final = "removed"  # answers to requests that are in the manifest no more
REQUESTS_FILE: Final = "requests.parquet"
IMAGES: Final = ("output", "sha256", "runners_up")  # what names images
THREADS: Final = 16


def write_part(output: str, rows: pa.Table, *, epoch: int) -> str:
    """Commit the answers to a block: one file, whole or not at all.

    Args:
        output: the output folder.
        rows: one a key, of the run's ``results_schema``; all parts of a run have the same.
        epoch: the run's number, from ``next_epoch``.

    Returns:
        The file's path relative to the output.

    Raises:
        StorageError: nothing was committed.
    """
    named = zip(rows["key"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True)
    path = f"{FOLDER}/part-{epoch:06d}-{rows_digest(named)}.parquet"
    storage.write_table(storage.join(output, path), rows)
    return path


def next_epoch(output: str) -> int:
    """The number of a run that starts now: above all that the results hold, so its answers will stand."""
    return 1 + max((epoch_of(file) for file in files(output)), default=0)


def read(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All answers, each key once, sorted by key. Columns that a file lacks are null in its rows.

    Args:
        output: the output folder; without results the table has no rows.
        columns: names to read; those that no file has are left out.

    Raises:
        StorageError: a file cannot be read.
        OutputError: a column's types in two files cannot be brought together.
    """
    return _read(files(output), columns)


def answers(output: str, only: Collection[str] | None = None) -> pa.Table:
    """Columns ``key``, ``fingerprint`` and ``status`` of every answer that stands, or of those in some ``files``."""
    return _read(files(output) if only is None else sorted(only), ["key", "fingerprint", "status"])


def write_requests(output: str, requests: pa.Table, *, whole: bool = False) -> None:
    """Record what runs on this output were asked for, which ``verify`` holds the answers against.

    Earlier requests that are not repeated stay if they were answered: a run with a limit does not make the others'
    rows orphans. Those that never were answered and are not asked for any more go.

    Args:
        output: the output folder.
        requests: columns ``key`` and ``fingerprint``.
        whole: they are the whole manifest: an earlier request that is not among them has left it, and ``retire`` is
            for its answer.
    """
    asked = row_sets.of(requests).cast(row_sets.SCHEMA)
    earlier = row_sets.none() if whole else row_sets.without_keys(requested(output), asked)
    if earlier.num_rows:
        earlier = row_sets.with_keys(earlier, answers(output))
    storage.write_table(storage.join(output, REQUESTS_FILE), pa.concat_tables([asked, earlier]))


def requested(output: str) -> pa.Table:
    """The pairs of every row that was asked for; none where no run has started."""
    try:
        data = storage.read_bytes(storage.join(output, REQUESTS_FILE))
    except ObjectMissing:
        return row_sets.none()
    return pq.read_table(io.BytesIO(data)).cast(row_sets.SCHEMA)


def read_requests(output: str) -> dict[str, str]:
    """Key to fingerprint of every row that was asked for; empty where no run has started."""
    table = requested(output)
    return dict(zip(table["key"].to_pylist(), table["fingerprint"].to_pylist(), strict=True))


def retire(output: str, asked: pa.Table, *, epoch: int) -> int:
    """Move the answers to requests that have left the manifest to ``removed/``; their images stay.

    To be called by one process; a kill in between leaves an answer in both places, and the next call finishes the work.

    Args:
        output: the output folder.
        asked: with the ``key`` of every row of the whole manifest.
        epoch: the run's number.

    Returns:
        How many.
    """
    present = files(output)
    table = result_files.read(present, result_files.DECIDING)
    stand = result_files.standing(table)
    stays = pc.is_in(table["key"].take(stand), value_set=asked["key"])
    gone = stand.filter(pc.invert(stays))
    if not len(gone):
        return 0
    for rows in result_files.chosen(present, result_files.marked(table, gone)):
        path = storage.join(output, REMOVED, f"{epoch:06d}-{row_sets.digest(rows)}.parquet")
        storage.write_table(path, rows)
    result_files.replace(output, present, result_files.marked(table, stand.filter(stays)), epoch)
    return len(gone)


def read_removed(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The last answer to each request that left the manifest, sorted by key; columns as in ``read``."""
    return _read(sorted(storage.list_files(storage.join(output, REMOVED), ".parquet")), columns)


def compact(output: str) -> None:
    """Make reading the folder plainly give each key once: to be called when all rows are answered, by one process.

    The merged files are written before those that they replace are deleted; they hold the answers that stood, so a
    kill in between changes no reading, and the next call finishes the work. A table that is in order already is left.
    """
    present = files(output)
    if not present:
        return
    table = result_files.read(present, result_files.DECIDING)
    stand = result_files.standing(table)
    merged = len(present) == 1 or not any(map(result_files.is_part, present))
    if merged and len(stand) == table.num_rows:
        return
    result_files.replace(output, present, result_files.marked(table, stand), max(map(epoch_of, present)))


def sweep(output: str, still_ours: Callable[[], None] = lambda: None) -> tuple[str, ...]:
    """Delete the images that no standing answer names, and say which.

    They are what a killed run put down before it could commit, or belong to answers that were superseded. To be called
    after ``compact``, by one process. Files that are not named as a sink names them are left alone.

    Args:
        output: the output folder.
        still_ours: called before anything is deleted; raises where a newer run may have put images there.
    """
    named = files_named(read(output, IMAGES)) | files_named(read_removed(output, IMAGES))
    orphans = tuple(address for address in orphan_images(output, named) if is_ours(address))
    still_ours()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda address: storage.delete(storage.join(output, address)), orphans))
    return orphans


def verify(output: str, asked: Mapping[str, str] | Iterable[str] | None = None) -> Verification:
    """Prove from storage that every row asked for is answered once, and every image is as its row recorded.

    Args:
        output: the output folder.
        asked: keys, or key to fingerprint; what ``write_requests`` recorded where None.

    Raises:
        StorageError: something could not be read.
    """
    wanted = requested(output) if asked is None else _as_pairs(asked)
    table = result_files.read(files(output), ["fingerprint", *result_files.DECIDING, *IMAGES])
    rows = table.take(result_files.standing(table))
    known = row_sets.with_keys(rows, wanted)
    other = known.filter(pc.invert(row_sets.is_same(known, wanted))) if _has_fingerprints(wanted) else known.slice(0, 0)
    expected = images_of(rows)
    missing_images, mismatches = read_back(output, expected)
    named = files_named(rows) | files_named(read_removed(output, IMAGES))
    return Verification(
        rows=wanted.num_rows,
        statuses=counted(known["status"]),
        missing_rows=_keys(row_sets.without_keys(wanted, rows)),
        stale_rows=_keys(other),
        orphan_rows=_keys(row_sets.without_keys(rows, wanted)),
        duplicates=_more_than_once(table["key"]) if rows.num_rows < table.num_rows else (),
        missing_images=missing_images,
        hash_mismatches=mismatches,
        orphan_images=orphan_images(output, named),
        images=len(expected) - len(missing_images),
        digest=digest_of(rows),
        images_digest=images_digest_of(rows),
        epoch=pc.max(table[result_files.EPOCH]).as_py() or 0,
    )


def _read(paths: Sequence[str], columns: Sequence[str] | None) -> pa.Table:
    wanted = None if columns is None else list(dict.fromkeys([*result_files.DECIDING, *columns]))
    table = result_files.read(paths, wanted)
    table = table.take(result_files.standing(table)).drop_columns([result_files.EPOCH, result_files.ORDER])
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def _as_pairs(asked: Mapping[str, str] | Iterable[str]) -> pa.Table:
    named = dict(asked) if isinstance(asked, Mapping) else dict.fromkeys(asked)
    fingerprints = pa.array(list(named.values()), pa.string())
    return pa.table({"key": pa.array(list(named), pa.string()), "fingerprint": fingerprints})


def _has_fingerprints(wanted: pa.Table) -> bool:
    return bool(wanted["fingerprint"].null_count == 0)


def _keys(table: pa.Table) -> tuple[str, ...]:
    return tuple(sorted(table["key"].to_pylist()))


def _more_than_once(keys: pa.ChunkedArray) -> tuple[str, ...]:
    counts = pc.value_counts(keys)
    return tuple(sorted(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()))
