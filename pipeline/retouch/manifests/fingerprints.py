"""Keys and fingerprints of manifest rows: the sha256 of what decides a row's pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from retouch.manifests import input_identity
from retouch.manifests.columns import IMAGE_COLUMNS
from retouch.schema import REQUEST_COLUMNS

CHUNK_ROWS: Final = 50_000  # rows held as Python objects at a time
KEY_DIGITS: Final = 20  # hex digits of a derived key: among a billion rows the chance of a collision is 1 in 2 million


def with_fingerprints(table: pa.Table, identity: Mapping[str, Any]) -> pa.Table:
    """Return the table with a column ``fingerprint``: the sha256 of all that decides a row's pixels.

    That is the request with its key (the noise depends on it), the identity of its inputs, and ``identity``. Inputs are
    identified by content if it is at hand (bytes in the manifest, local files), else by address and ETag, or size and
    modification time; a missing or unreadable input counts as such, so that its row is edited once it is readable.

    Args:
        table: a ``Manifest.table``.
        identity: what decides pixels apart from the row, as JSON values (``jobs.identity.pixel_identity``).

    Raises:
        StorageError: an input's identity could not be read after bounded retries.
    """
    run = hashlib.sha256(_json(dict(identity)).encode()).hexdigest()
    names = [name for name in REQUEST_COLUMNS if name in table.column_names and name not in IMAGE_COLUMNS]
    images = [name for name in IMAGE_COLUMNS if name in table.column_names]
    found = input_identity.look_up(table, images)
    digests = [
        pa.array(_fingerprints(run, table.slice(start, CHUNK_ROWS), names, images, found), pa.string())
        for start in range(0, table.num_rows, CHUNK_ROWS)
    ]
    column = pa.chunked_array(digests, pa.string())
    return table.append_column(pa.field("fingerprint", pa.string(), nullable=False), column)


def derived_keys(requests: pa.Table) -> list[str]:
    """Return keys for requests as they are written, so that a manifest keeps its keys when it moves."""
    plain = [name for name in requests.column_names if name not in IMAGE_COLUMNS]
    images = {
        name: input_identity.identify_cells(requests[name], {})
        for name in IMAGE_COLUMNS
        if name in requests.column_names
    }
    rows = requests.select(plain).to_pylist() if plain else [{}] * requests.num_rows
    texts = (_json({**row, **{name: cells[i] for name, cells in images.items()}}) for i, row in enumerate(rows))
    return [hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS] for text in texts]


def _fingerprints(
    run: str, rows: pa.Table, names: Sequence[str], images: Sequence[str], found: Mapping[str, str | None]
) -> list[str]:
    identities = {name: input_identity.identify_cells(rows[name], found) for name in images}
    return [
        _fingerprint(run, request, {name: cells[row] for name, cells in identities.items()}, found)
        for row, request in enumerate(rows.select(names).to_pylist())
    ]


def _fingerprint(
    run: str, request: Mapping[str, Any], images: Mapping[str, str | None], found: Mapping[str, str | None]
) -> str:
    known = {name: value for name, value in {**request, **images}.items() if value is not None}
    if known.get("params"):
        known["params"] = _parsed(known["params"])
    if known.get("checkpoint") in found:
        known["checkpoint"] = [known["checkpoint"], found[known["checkpoint"]]]
    return hashlib.sha256(_json({"run": run, **known}).encode()).hexdigest()


def _parsed(text: str) -> Any:
    """Return JSON parsed, so that spacing and order decide nothing; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
