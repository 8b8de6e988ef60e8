"""How a run's requests differ from those before it: new, changed, removed, left over and unchanged rows.

``OUTPUT/changes/EPOCH.parquet`` lists all rows but the unchanged ones; EPOCH is the number of the first run with these
requests. A run that resumes it writes no other file.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import storage
from retouch.manifests import row_sets

FOLDER: Final = "changes"
NEW: Final = "new"
CHANGED: Final = "changed"
REMOVED: Final = "removed"
LEFT_OVER: Final = "left_over"  # unchanged, but the run before did not finish it
UNCHANGED: Final = "unchanged"
KINDS: Final = (NEW, CHANGED, REMOVED, LEFT_OVER, UNCHANGED)
SCHEMA: Final = pa.schema([pa.field("key", pa.string(), False), pa.field("change", pa.string(), False)])
_METADATA: Final = b"retouch"  # key in the file's metadata: the other fields of ``Changes``


@dataclass(frozen=True)
class Changes:
    """How the requests of a run differ from those of a baseline."""

    rows: pa.Table  # ``SCHEMA``, of all that are not unchanged
    unchanged: int
    against: str | None  # the baseline's output; None if there is none
    digest: str  # of this run's requests

    @property
    def counts(self) -> dict[str, int]:
        """Rows by kind of change."""
        return {**{kind: len(self.of(kind)) for kind in KINDS[:-1]}, UNCHANGED: self.unchanged}

    def of(self, *kinds: str) -> pa.ChunkedArray:
        """Return the keys of these kinds."""
        return self.rows["key"].filter(pc.is_in(self.rows["change"], pa.array(kinds, pa.string())))

    def text(self) -> str:
        """Return ``since runs/2026-11-25: 30 new, 10 changed, 5 removed, 90 unchanged``."""
        shown = (f"{count} {kind.replace('_', ' ')}" for kind, count in self.counts.items() if count)
        return f"since {self.against or 'nothing'}: {', '.join(shown) or 'no rows'}"


def compare_requests(
    requests: pa.Table, before: pa.Table, left: pa.Table, against: str | None, *, whole: bool
) -> Changes:
    """Compare this run's requests with those of a baseline.

    Args:
        requests: ``key`` and ``fingerprint`` of this run's rows.
        before: the same of the baseline.
        left: with the ``key`` of this run's rows whose results cannot be reused.
        against: the output that ``before`` is of.
        whole: whether ``requests`` is the whole manifest: only then is a row that is missing a removed one.
    """
    known, same = row_sets.has_key(requests, before), row_sets.is_same(requests, before)
    kinds = {
        NEW: requests.filter(pc.invert(known)),
        CHANGED: requests.filter(pc.and_(known, pc.invert(same))),
        LEFT_OVER: row_sets.with_keys(requests.filter(same), left),
    }
    unchanged = requests.num_rows - sum(rows.num_rows for rows in kinds.values())
    if whole:
        kinds[REMOVED] = row_sets.without_keys(before, requests)
    rows = [_of_kind(table["key"], kind) for kind, table in kinds.items()]
    return Changes(pa.concat_tables(rows), unchanged, against, row_sets.digest(requests))


def write(output: str, changes: Changes, epoch: int) -> None:
    """Record the changes that the run of this number starts with."""
    facts = {"unchanged": changes.unchanged, "against": changes.against, "digest": changes.digest}
    table = changes.rows.replace_schema_metadata({_METADATA: json.dumps(facts)})
    storage.write_table(storage.join(output, FOLDER, f"{epoch:06d}.parquet"), table)


def history(output: str) -> list[str]:
    """Return the files of recorded changes, newest first."""
    return sorted(storage.list_files(storage.join(output, FOLDER), ".parquet"), reverse=True)


def read(file: str) -> Changes:
    """Return what ``write`` recorded in a file."""
    table = pq.read_table(io.BytesIO(storage.read_bytes(file)))
    facts = json.loads((table.schema.metadata or {})[_METADATA])
    rows = table.replace_schema_metadata(None)
    return Changes(rows, facts["unchanged"], facts["against"], facts["digest"])


def _of_kind(keys: pa.ChunkedArray, kind: str) -> pa.Table:
    return pa.table([keys, pa.repeat(pa.scalar(kind), len(keys))], schema=SCHEMA)
