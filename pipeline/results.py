"""The results table: append-only, the only memory of a run. Knows neither pixels nor what decided them.

``OUTPUT/results/part-EPOCH-HASH.parquet`` holds the answers to one block. EPOCH is the number of the run that gave
them, HASH names the block's keys and fingerprints, so a retried task overwrites its own file. ``compact`` merges parts
into ``all-EPOCH-HASH.parquet``. Where a key is answered more than once, the answer of the highest epoch stands; that is
in the files' names, so a kill at any moment leaves a table with one reading.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.addresses import rows_digest
from pipeline.errors import ObjectMissing, OutputError
from pipeline.schema import RESULT_FIELDS, SUCCESS
from pipeline.verification import (
    Verification,
    digest_of,
    images_digest_of,
    images_of,
    is_ours,
    orphan_images,
    read_back,
)

FOLDER: Final = "results"
REMOVED: Final = "removed"  # answers to requests that are in the manifest no more
REQUESTS_FILE: Final = "requests.parquet"
REQUESTS: Final = pa.schema([pa.field("key", pa.string(), False), pa.field("fingerprint", pa.string(), False)])
THREADS: Final = 16
ROWS_A_FILE: Final = 1_000_000  # of a compacted table: a few hundred MB
_EPOCH: Final = "__epoch"  # columns that reading adds: the epoch of a row's file,
_ORDER: Final = "__order"  # and the file's position among all


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
    path = f"{FOLDER}/part-{epoch:06d}-{_digest(rows)}.parquet"
    storage.write_bytes(storage.join(output, path), _encoded(rows))
    return path


def next_epoch(output: str) -> int:
    """The number of a run that starts now: above all that the results hold, so its answers will stand."""
    return 1 + max((epoch_of(file) for file in files(output)), default=0)


def files(output: str) -> list[str]:
    """Addresses of the files of the results table, in the order in which later ones stand over earlier ones."""
    found = storage.list_files(storage.join(output, FOLDER), ".parquet")
    return sorted(found, key=lambda file: (epoch_of(file), _name(file).startswith("part-"), _name(file)))


def read(output: str, columns: Sequence[str] | None = None) -> pa.Table:
    """All answers, each key once, sorted by key. Columns that a file lacks are null in its rows.

    Args:
        output: the output folder; without results the table has no rows.
        columns: names to read; those that no file has are left out.

    Raises:
        StorageError: a file cannot be read.
        OutputError: a column's types in two files cannot be brought together.
    """
    wanted = None if columns is None else list(dict.fromkeys(["key", "fingerprint", "status", *columns]))
    table = _resolved(_read_files(files(output), wanted))
    return table if columns is None else table.select([name for name in columns if name in table.column_names])


def answered(output: str, only: Collection[str] | None = None) -> dict[str, tuple[str, str]]:
    """Key to (fingerprint, status) of every answer that stands, or of those in ``only`` these of its ``files``."""
    names = ["key", "fingerprint", "status"]
    table = read(output, names) if only is None else _resolved(_read_files(sorted(only), names))
    keys, fingerprints, statuses = _lists(table, "key", "fingerprint", "status")
    return dict(zip(keys, zip(fingerprints, statuses, strict=True), strict=True))


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
    asked = pairs(requests)
    earlier = (
        {} if whole else {key: fingerprint for key, fingerprint in read_requests(output).items() if key not in asked}
    )
    if earlier:
        known = answered(output)
        asked |= {key: fingerprint for key, fingerprint in earlier.items() if key in known}
    table = pa.table({"key": list(asked), "fingerprint": list(asked.values())}, schema=REQUESTS)
    storage.write_bytes(storage.join(output, REQUESTS_FILE), _encoded(table))


def read_requests(output: str) -> dict[str, str]:
    """Key to fingerprint of every row that was asked for; empty where no run has started."""
    try:
        data = storage.read_bytes(storage.join(output, REQUESTS_FILE))
    except ObjectMissing:
        return {}
    return pairs(pq.read_table(io.BytesIO(data)))


def retire(output: str, asked: Collection[str], *, epoch: int) -> int:
    """Move the answers to requests that have left the manifest to ``removed/``; their images stay.

    To be called by one process; a kill in between leaves an answer in both places, and the next call finishes the work.

    Args:
        output: the output folder.
        asked: keys of the whole manifest.
        epoch: the run's number.

    Returns:
        How many.
    """
    table = read(output)
    staying = pc.is_in(table["key"], pa.array(sorted(asked), pa.string()))
    gone = table.filter(pc.invert(staying))
    if not gone.num_rows:
        return 0
    storage.write_bytes(storage.join(output, REMOVED, f"{epoch:06d}-{_digest(gone)}.parquet"), _encoded(gone))
    _merge(output, table.filter(staying), files(output), epoch)
    return int(gone.num_rows)


def read_removed(output: str) -> pa.Table:
    """The last answer to each request that left the manifest, sorted by key."""
    names = sorted(storage.list_files(storage.join(output, REMOVED), ".parquet"))
    return _resolved(_read_files(names))


def compact(output: str) -> None:
    """Make reading the folder plainly give each key once: to be called when all rows are answered, by one process.

    The merged files are written before those that they replace are deleted; they hold the answers that stood, so a
    kill in between changes no reading, and the next call finishes the work. A table that is in order already is left.
    """
    present = files(output)
    table = _read_files(present)
    standing = _resolved(table)
    if len(present) <= 1 and standing.num_rows == table.num_rows:
        return
    _merge(output, standing, present, max(epoch_of(file) for file in present))


def _merge(output: str, standing: pa.Table, present: Sequence[str], epoch: int) -> None:
    """Put these rows in the place of the files that are there."""
    merged = []
    for start in range(0, standing.num_rows, ROWS_A_FILE):
        rows = standing.slice(start, ROWS_A_FILE)
        merged.append(storage.join(output, FOLDER, f"all-{epoch:06d}-{_digest(rows)}.parquet"))
        storage.write_bytes(merged[-1], _encoded(rows))
    superseded = sorted(set(present) - set(merged), key=present.index)  # oldest first: what is left still stands
    for file in superseded:
        storage.delete(file)


def sweep(output: str, still_ours: Callable[[], None] = lambda: None) -> tuple[str, ...]:
    """Delete the images that no standing answer names, and say which.

    They are what a killed run put down before it could commit, or belong to answers that were superseded. To be called
    after ``compact``, by one process. Files that are not named as a sink names them are left alone.

    Args:
        output: the output folder.
        still_ours: called before anything is deleted; raises where a newer run may have put images there.
    """
    wanted = ["output", "sha256", "runners_up"]
    named = images_of(read(output, wanted)) | images_of(read_removed(output).select(wanted))
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
    wanted = read_requests(output) if asked is None else asked
    fingerprints = wanted if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    table = _read_files(files(output))
    rows = _resolved(table)
    answers = dict(zip(rows["key"].to_pylist(), zip(*_lists(rows, "fingerprint", "status"), strict=True), strict=True))
    expected = images_of(rows)
    missing_images, mismatches = read_back(output, expected)
    return Verification(
        rows=len(fingerprints),
        statuses=Counter(status for key, (_, status) in sorted(answers.items()) if key in fingerprints),
        missing_rows=tuple(sorted(set(fingerprints) - set(answers))),
        stale_rows=tuple(key for key, (got, _) in sorted(answers.items()) if fingerprints.get(key) not in (None, got)),
        orphan_rows=tuple(sorted(set(answers) - set(fingerprints))),
        duplicates=tuple(sorted(key for key, times in Counter(table["key"].to_pylist()).items() if times > 1)),
        missing_images=missing_images,
        hash_mismatches=mismatches,
        orphan_images=orphan_images(output, {**expected, **images_of(read_removed(output))}),
        images=len(expected) - len(missing_images),
        digest=digest_of(rows),
        images_digest=images_digest_of(rows),
        epoch=max(table[_EPOCH].to_pylist(), default=0),
    )


def _read_files(paths: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of the files, in their order, with the columns ``_EPOCH`` and ``_ORDER``."""
    if not paths:
        empty = pa.schema([*RESULT_FIELDS, (_EPOCH, pa.int64()), (_ORDER, pa.int64())]).empty_table()
        return (
            empty
            if columns is None
            else empty.select([n for n in (*columns, _EPOCH, _ORDER) if n in empty.schema.names])
        )
    with ThreadPoolExecutor(THREADS) as threads:
        tables = list(threads.map(lambda path: _read_file(path, columns), paths))
    ordered = [
        _with_constant(_with_constant(table, _EPOCH, epoch_of(path)), _ORDER, index)
        for index, (path, table) in enumerate(zip(paths, tables, strict=True))
    ]
    try:
        return pa.concat_tables(ordered, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        text = " ".join(str(error).split())
        raise OutputError(f"results in {paths[0].rpartition('/')[0]} do not fit together: {text}") from None


def _read_file(path: str, columns: Sequence[str] | None) -> pa.Table:
    # A part is small and comes in one request; of a merged file only the wanted columns are fetched.
    source = storage.open_input(path) if _name(path).startswith("all-") else io.BytesIO(storage.read_bytes(path))
    try:
        with source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            return file.read(None if columns is None else [name for name in columns if name in names])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise OutputError(f"{path} is no results file: {' '.join(str(error).split())}") from None


def _resolved(table: pa.Table) -> pa.Table:
    """One row a key, sorted by key: of the highest epoch; within one, a success, else that of the last file."""
    success = pc.equal(table["status"], SUCCESS).to_pylist()
    rank = list(zip(table[_EPOCH].to_pylist(), success, table[_ORDER].to_pylist(), strict=True))
    best: dict[str, int] = {}
    for row, key in enumerate(table["key"].to_pylist()):
        if key not in best or rank[best[key]] <= rank[row]:
            best[key] = row
    return table.take(pa.array([best[key] for key in sorted(best)], pa.int64())).drop_columns([_EPOCH, _ORDER])


def _lists(table: pa.Table, *columns: str) -> list[list[str]]:
    return [table[name].to_pylist() for name in columns]


def pairs(table: pa.Table) -> dict[str, str]:
    """Key to fingerprint of a table's rows."""
    return dict(zip(*_lists(table, "key", "fingerprint"), strict=True))


def _with_constant(table: pa.Table, name: str, value: int) -> pa.Table:
    return table.append_column(name, pa.repeat(pa.scalar(value, pa.int64()), table.num_rows))


def _encoded(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def _digest(rows: pa.Table) -> str:
    return rows_digest(zip(rows["key"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def epoch_of(path: str) -> int:
    """The number of the run that wrote a file of the table."""
    number = _name(path).split("-")[1] if _name(path).count("-") >= 2 else ""
    return int(number) if number.isdigit() else 0
