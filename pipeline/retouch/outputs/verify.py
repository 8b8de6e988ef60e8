"""Verification of an output: every requested row has one result row, and every image is as its row recorded it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from retouch import storage
from retouch.manifests import row_sets
from retouch.outputs import image_paths, result_files, results
from retouch.schema import FAILURES, FILTERED, SUCCESS

THREADS: Final = 32  # images read back at the same time
PROOF_FILE: Final = "proof.json"
_SHOWN: Final = 3  # names per kind of finding in the text
_FINDINGS: Final = (  # field; its key in proof.json, which programs read; its name in the text
    ("missing_rows", "rows without an answer", "rows not done"),
    ("stale_rows", "rows answered for another request", "rows done for another request"),
    ("orphan_rows", "answers that nobody asked for", "rows that were not requested"),
    ("duplicates", "keys answered more than once", "keys with more than one row"),
    ("missing_images", "images missing", "missing images"),
    ("hash_mismatches", "images that are not what was recorded", "images whose sha256 differs from their row's"),
    ("orphan_images", "images without a row", "images without a row"),
)


@dataclass(frozen=True)
class Verification:
    """The outcome of reading an output back; ``ok`` if there are no findings."""

    rows: int  # requested
    statuses: Mapping[str, int]  # of the requested rows that are done
    missing_rows: tuple[str, ...] = ()  # keys of requested rows that are not done
    stale_rows: tuple[str, ...] = ()  # keys whose row is of another request (fingerprint)
    orphan_rows: tuple[str, ...] = ()  # keys of rows that were not requested
    duplicates: tuple[str, ...] = ()  # keys that any Parquet reader finds more than once
    missing_images: tuple[str, ...] = ()  # paths that a row refers to
    hash_mismatches: tuple[str, ...] = ()  # paths of images with another sha256 than their row
    orphan_images: tuple[str, ...] = ()  # files that no row refers to
    images: int = 0  # read back and hashed
    digest: str = ""  # sha256 of the sorted (key, status, sha256 of the image): equal for equal outcomes
    images_digest: str = ""  # of the sorted (key, sha256 of the image), see ``digest_images``
    epoch: int = 0  # of the newest results

    @property
    def ok(self) -> bool:
        """Whether every row is done once and every image is as recorded."""
        return not any(getattr(self, field) for field, _, _ in _FINDINGS)

    def text(self) -> str:
        """Return a report: the sum (in = success + failed + filtered), then a line per kind of finding."""
        kinds = {status: self.statuses[status] for status in FAILURES if self.statuses.get(status)}
        sums = [
            f"{self.statuses.get(SUCCESS, 0)} success",
            f"{sum(kinds.values())} failed",
            f"{self.statuses.get(FILTERED, 0)} filtered",
            *([f"{len(self.missing_rows)} not done"] if self.missing_rows else []),
        ]
        lines = [f"{self.rows} rows in = {' + '.join(sums)}; {self.images} images read back"]
        lines += [f"failed: {', '.join(f'{number} {status}' for status, number in kinds.items())}"] if kinds else []
        for field, _, kind in _FINDINGS:
            if names := getattr(self, field):
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                lines.append(f"{kind}: {', '.join(names[:_SHOWN])}{more}")
        lines.append(f"sha256 of the sorted (key, sha256): {self.images_digest}")
        return "\n".join([*lines, f"ok, digest {self.digest}" if self.ok else "not ok"])

    def record(self) -> dict[str, Any]:
        """Return the content of ``PROOF_FILE``: counts and digests, no names."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "statuses": dict(self.statuses),
            "findings": {key: len(getattr(self, field)) for field, key, _ in _FINDINGS},
            "images": self.images,
            "digest": self.digest,
            "images_digest": self.images_digest,
            "epoch": self.epoch,
        }


def verify_output(output: str, requests: Mapping[str, str] | Iterable[str] | None = None) -> Verification:
    """Read an output back from storage and compare it with its requests.

    Args:
        output: the output folder.
        requests: keys, or key to fingerprint; those that the output recorded if None.

    Raises:
        StorageError: something could not be read.
    """
    wanted = results.read_requests(output) if requests is None else _row_set(requests)
    table = result_files.read(results.files(output), ["fingerprint", *result_files.DECIDING, *results.IMAGES])
    rows = table.take(result_files.current_rows(table))
    known = row_sets.with_keys(rows, wanted)
    stale = known.filter(pc.invert(row_sets.is_same(known, wanted))) if _has_fingerprints(wanted) else known.slice(0, 0)
    images = results.image_hashes(rows)
    missing_images, mismatches = _read_back(output, images)
    return Verification(
        rows=wanted.num_rows,
        statuses=results.count_statuses(known["status"]),
        missing_rows=_keys(row_sets.without_keys(wanted, rows)),
        stale_rows=_keys(stale),
        orphan_rows=_keys(row_sets.without_keys(rows, wanted)),
        duplicates=_repeated(table["key"]) if rows.num_rows < table.num_rows else (),
        missing_images=missing_images,
        hash_mismatches=mismatches,
        orphan_images=results.orphan_images(output, rows),
        images=len(images) - len(missing_images),
        digest=digest_rows(rows),
        images_digest=digest_images(rows),
        epoch=pc.max(table[result_files.EPOCH]).as_py() or 0,
    )


def digest_rows(rows: pa.Table) -> str:
    """Return the sha256 of the outcome, independent of the rows' order."""
    names = pc.binary_join_element_wise(pc.utf8_length(rows["key"]).cast(pa.string()), rows["key"], ":")
    lines = pc.binary_join_element_wise(names, rows["status"], pc.fill_null(rows["sha256"], ""), "\0")
    return row_sets.sha256_of_lines(lines.cast(pa.large_string()))


def digest_images(rows: pa.Table) -> str:
    """Return the sha256 of the JSON of all (key, sha256), sorted by key; null for a row without an image.

    Equal to ``hashlib.sha256(json.dumps(sorted(zip(keys, hashes))).encode())``, without the whole text in memory.
    """
    rows = rows.take(pc.sort_indices(rows["key"]))
    digest, first = hashlib.sha256(b"["), True
    for keys, images in zip(row_sets.chunks(rows["key"]), row_sets.chunks(rows["sha256"]), strict=True):
        listed = json.dumps(list(zip(keys, images, strict=True)))[1:-1]
        digest.update(f"{'' if first else ', '}{listed}".encode())
        first = False
    digest.update(b"]")
    return digest.hexdigest()


def write_proof(output: str, proof: Verification, version: str) -> str:
    """Write a verification to ``PROOF_FILE`` in the output, replacing an earlier one; return the file's URI.

    Args:
        output: the output folder.
        proof: the verification.
        version: of the package that made it.

    Raises:
        StorageError: the output cannot be written to.
    """
    file = storage.join(output, PROOF_FILE)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**proof.record(), "when": when, "retouch": version}
    storage.write_bytes(file, (json.dumps(record, indent=1) + "\n").encode())
    return file


def _read_back(output: str, expected: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the paths of images that are missing, and of those whose sha256 differs.

    Raises:
        StorageError: an image could not be read for another reason than that it is missing.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for path in expected:
        files[image_paths.file_of(path)].append(path)
    found: dict[str, str | None] = {}
    with ThreadPoolExecutor(THREADS) as threads:
        for hashes in threads.map(lambda paths: _hashes(output, paths), files.values()):
            found |= hashes
    missing = sorted(path for path, sha256 in found.items() if sha256 is None)
    differ = sorted(path for path, sha256 in found.items() if sha256 not in (None, expected[path]))
    return tuple(missing), tuple(differ)


def _hashes(output: str, paths: Sequence[str]) -> dict[str, str | None]:
    images = image_paths.read_images(output, paths)
    return {path: None if data is None else hashlib.sha256(data).hexdigest() for path, data in images.items()}


def _row_set(requests: Mapping[str, str] | Iterable[str]) -> pa.Table:
    rows = dict(requests) if isinstance(requests, Mapping) else dict.fromkeys(requests)
    fingerprints = pa.array(list(rows.values()), pa.string())
    return pa.table({"key": pa.array(list(rows), pa.string()), "fingerprint": fingerprints})


def _has_fingerprints(requests: pa.Table) -> bool:
    return bool(requests["fingerprint"].null_count == 0)


def _keys(table: pa.Table) -> tuple[str, ...]:
    return tuple(sorted(table["key"].to_pylist()))


def _repeated(keys: pa.ChunkedArray) -> tuple[str, ...]:
    counts = pc.value_counts(keys)
    return tuple(sorted(counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()))
