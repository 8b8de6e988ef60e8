"""The proof that an output is whole: images against what their rows say. Knows rows as a table, not where they rest."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from retouch import storage
from retouch.manifests import row_sets
from retouch.outputs import image_paths
from retouch.schema import FAILURES, FILTERED, SUCCESS

THREADS: Final = 32  # images read back side by side
PROOF_FILE: Final = "proof.json"
_SHOWN: Final = 3  # names of a kind that the text shows
_OURS: Final = re.compile(r"(-[0-9a-f]{16}(-\w+)?\.(png|webp|jpg)|/shard-[0-9a-f]{20}\.tar)$")


@dataclass(frozen=True)
class Verification:
    """What reading an output back has shown; ``ok`` where nothing is amiss."""

    rows: int  # rows asked for
    statuses: Mapping[str, int]  # of the rows asked for that are answered
    missing_rows: tuple[str, ...] = ()  # keys asked for without an answer
    stale_rows: tuple[str, ...] = ()  # keys whose answer is to another request (fingerprint)
    orphan_rows: tuple[str, ...] = ()  # keys answered that nobody asked for
    duplicates: tuple[str, ...] = ()  # keys that reading the folder plainly gives more than once
    missing_images: tuple[str, ...] = ()  # addresses that a row names and that hold nothing
    hash_mismatches: tuple[str, ...] = ()  # addresses whose bytes are not those that the row recorded
    orphan_images: tuple[str, ...] = ()  # files that no row names
    images: int = 0  # read back and hashed
    digest: str = ""  # sha256 of the sorted (key, status, sha256 of the image): equal for equal outcomes
    images_digest: str = ""  # of the sorted (key, sha256 of the image), as ``images_digest_of`` says
    epoch: int = 0  # of the newest results

    @property
    def ok(self) -> bool:
        """Whether every row is answered once and every image is as recorded."""
        return not any(names for _, names in self._findings())

    def text(self) -> str:
        """For people: the sum (in = success + failed + filtered), then one line for each kind of finding."""
        kinds = {status: self.statuses[status] for status in FAILURES if self.statuses.get(status)}
        parts = [
            f"{self.statuses.get(SUCCESS, 0)} success",
            f"{sum(kinds.values())} failed",
            f"{self.statuses.get(FILTERED, 0)} filtered",
            *([f"{len(self.missing_rows)} without an answer"] if self.missing_rows else []),
        ]
        lines = [f"{self.rows} rows in = {' + '.join(parts)}; {self.images} images read back"]
        lines += [f"failed: {', '.join(f'{number} {status}' for status, number in kinds.items())}"] if kinds else []
        for kind, names in self._findings():
            if names:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                lines.append(f"{kind}: {', '.join(names[:_SHOWN])}{more}")
        lines.append(f"sha256 of the sorted (key, sha256): {self.images_digest}")
        return "\n".join([*lines, f"ok, digest {self.digest}" if self.ok else "not ok"])

    def record(self) -> dict[str, Any]:
        """What ``PROOF_FILE`` holds of it: counts and digests, no names."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "statuses": dict(self.statuses),
            "findings": {kind: len(names) for kind, names in self._findings()},
            "images": self.images,
            "digest": self.digest,
            "images_digest": self.images_digest,
            "epoch": self.epoch,
        }

    def _findings(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return (
            ("rows without an answer", self.missing_rows),
            ("rows answered for another request", self.stale_rows),
            ("answers that nobody asked for", self.orphan_rows),
            ("keys answered more than once", self.duplicates),
            ("images missing", self.missing_images),
            ("images that are not what was recorded", self.hash_mismatches),
            ("images without a row", self.orphan_images),
        )


def images_of(rows: pa.Table) -> dict[str, str]:
    """Address to sha256 of every image that the rows name, runners-up too."""
    found: dict[str, str] = {}
    for table in _named(rows):
        found |= zip(table["output"].to_pylist(), pc.fill_null(table["sha256"], "").to_pylist(), strict=True)
    return found


def files_named(rows: pa.Table) -> set[str]:
    """The files in which the images that the rows name rest, relative to the output or whole, as the rows say it."""
    found: set[str] = set()
    for table in _named(rows):
        files = pc.list_element(pc.split_pattern(table["output"], image_paths.MEMBER, max_splits=1), 0)
        found |= set(pc.unique(files).to_pylist())
    return found


def _named(rows: pa.Table) -> Iterator[pa.Table]:
    """Columns ``output`` and ``sha256`` of the best images, and of the others."""
    yield rows.select(["output", "sha256"]).filter(pc.is_valid(rows["output"]))
    if "runners_up" in rows.column_names:
        others = pc.list_flatten(rows["runners_up"])
        columns = {name: pc.struct_field(others, name) for name in ("output", "sha256")}
        yield pa.table(columns).filter(pc.is_valid(columns["output"]))


def counted(statuses: pa.ChunkedArray) -> dict[str, int]:
    """How often each status is there, in the alphabet's order."""
    counts = pc.value_counts(statuses)
    return dict(sorted(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def read_back(output: str, expected: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Addresses of images that are missing, and of those with another hash.

    Args:
        output: the output folder.
        expected: address to hex sha256.

    Raises:
        StorageError: an image could not be read for another reason than that it is not there.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for address in expected:
        files[image_paths.file_of(address)].append(address)
    found: dict[str, str | None] = {}
    with ThreadPoolExecutor(THREADS) as threads:
        for hashes in threads.map(lambda together: _hashes(output, together), files.values()):
            found |= hashes
    missing = sorted(address for address, got in found.items() if got is None)
    differ = sorted(address for address, got in found.items() if got not in (None, expected[address]))
    return tuple(missing), tuple(differ)


def orphan_images(output: str, named: Collection[str]) -> tuple[str, ...]:
    """Addresses of files below the images' folder that are none of those named."""
    folder = storage.join(output, image_paths.IMAGES)
    present = (storage.join(image_paths.IMAGES, file[len(folder) :]) for file in storage.list_files(folder))
    return tuple(sorted(set(present).difference(named)))


def is_ours(address: str) -> bool:
    """Whether a file has a name that a sink of this package gives."""
    return _OURS.search(f"/{address}") is not None


def digest_of(rows: pa.Table) -> str:
    """sha256 of the outcome, whatever the rows' order."""
    names = pc.binary_join_element_wise(pc.utf8_length(rows["key"]).cast(pa.string()), rows["key"], ":")
    lines = pc.binary_join_element_wise(names, rows["status"], pc.fill_null(rows["sha256"], ""), "\0")
    return row_sets.sha256_of_lines(lines.cast(pa.large_string()))


def images_digest_of(rows: pa.Table) -> str:
    """sha256 of the JSON of all (key, sha256), sorted by key; null where a row has no image.

    ``hashlib.sha256(json.dumps(sorted(zip(keys, hashes))).encode())`` is the same, but holds the whole text at once.
    """
    rows = rows.take(pc.sort_indices(rows["key"]))
    digest, first = hashlib.sha256(b"["), True
    for keys, images in zip(row_sets.pieces(rows["key"]), row_sets.pieces(rows["sha256"]), strict=True):
        listed = json.dumps(list(zip(keys, images, strict=True)))[1:-1]
        digest.update(f"{'' if first else ', '}{listed}".encode())
        first = False
    digest.update(b"]")
    return digest.hexdigest()


def leave_proof(output: str, proof: Verification, version: str) -> str:
    """Put the proof beside the results, whole or not at all, over an earlier one.

    Args:
        output: the output folder.
        proof: what was found there.
        version: of the package that found it.

    Returns:
        The file's address.

    Raises:
        StorageError: the output cannot be written to.
    """
    file = storage.join(output, PROOF_FILE)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**proof.record(), "when": when, "retouch": version}
    storage.write_bytes(file, (json.dumps(record, indent=1) + "\n").encode())
    return file


def _hashes(output: str, together: Sequence[str]) -> dict[str, str | None]:
    images = image_paths.fetch_file(output, together)
    return {address: None if data is None else hashlib.sha256(data).hexdigest() for address, data in images.items()}
