"""What a manifest brought since the run before: new, changed, removed and unchanged rows. Knows keys and fingerprints.

``OUTPUT/changes/EPOCH.parquet`` lists the rows that are not unchanged, EPOCH the number of the first run that was asked
for just these rows; a run that goes on after a stop leaves it as it is.
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
LEFT_OVER: Final = "left_over"  # unchanged, but the run before did not come to answer it
UNCHANGED: Final = "unchanged"
KINDS: Final = (NEW, CHANGED, REMOVED, LEFT_OVER, UNCHANGED)
SCHEMA: Final = pa.schema([pa.field("key", pa.string(), False), pa.field("change", pa.string(), False)])
_FACTS: Final = b"retouch"  # in the file's metadata: counts, the requests' digest, and what they were held against


@dataclass(frozen=True)
class Changes:
    """How tonight's requests differ from those before."""

    rows: pa.Table  # ``SCHEMA``, of all that are not unchanged
    unchanged: int
    against: str | None  # the output whose requests they were held against; None where there were none
    digest: str  # of tonight's requests

    @property
    def counts(self) -> dict[str, int]:
        """Rows by kind of change."""
        return {**{kind: len(self.of(kind)) for kind in KINDS[:-1]}, UNCHANGED: self.unchanged}

    def of(self, *kinds: str) -> pa.ChunkedArray:
        """Keys of these kinds."""
        return self.rows["key"].filter(pc.is_in(self.rows["change"], pa.array(kinds, pa.string())))

    def text(self) -> str:
        """``since runs/2026-11-25: 30 new, 10 changed, 5 removed, 90 unchanged``."""
        shown = (f"{count} {kind.replace('_', ' ')}" for kind, count in self.counts.items() if count)
        return f"since {self.against or 'nothing'}: {', '.join(shown) or 'no rows'}"


def compare(requests: pa.Table, before: pa.Table, left: pa.Table, against: str | None, *, whole: bool) -> Changes:
    """Hold tonight's requests against those before.

    Args:
        requests: pairs of what is asked for tonight.
        before: the same of the run before.
        left: those of tonight, by ``key``, that no answer can be taken over for.
        against: where ``before`` stands.
        whole: whether ``requests`` is the whole manifest: only then is a row that is not there a removed one.
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
    """Record the changes that the run of this number begins with."""
    facts = {"unchanged": changes.unchanged, "against": changes.against, "digest": changes.digest}
    table = changes.rows.replace_schema_metadata({_FACTS: json.dumps(facts)})
    storage.write_table(storage.join(output, FOLDER, f"{epoch:06d}.parquet"), table)


def history(output: str) -> list[str]:
    """Addresses of what was recorded there, the newest first."""
    return sorted(storage.list_files(storage.join(output, FOLDER), ".parquet"), reverse=True)


def read(file: str) -> Changes:
    """What ``write`` recorded."""
    table = pq.read_table(io.BytesIO(storage.read_bytes(file)))
    facts = json.loads((table.schema.metadata or {})[_FACTS])
    rows = table.replace_schema_metadata(None)
    return Changes(rows, facts["unchanged"], facts["against"], facts["digest"])


def _of_kind(keys: pa.ChunkedArray, kind: str) -> pa.Table:
    return pa.table([keys, pa.repeat(pa.scalar(kind), len(keys))], schema=SCHEMA)
