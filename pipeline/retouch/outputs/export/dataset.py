"""Export of a run's images as a dataset: choose the rows, check their images, write the files, record the counts.

``export.json`` in the destination records what was exported and what was left out. It says ``unfinished`` until the
export is complete. The same call gives the same bytes, except for signatures.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from retouch import storage
from retouch.errors import ConfigError, RetouchError
from retouch.jobs.identity import recorded_identity
from retouch.manifests import reader as manifest
from retouch.manifests import row_sets
from retouch.manifests.columns import without_credentials
from retouch.manifests.fingerprints import with_fingerprints
from retouch.outputs import results
from retouch.outputs.export.content_credentials import Signer, Signing
from retouch.outputs.export.dataset_card import CARD, Facts, Format, render_card
from retouch.outputs.export.image_folder import METADATA, ImageFolder
from retouch.outputs.export.items import CHANGED, Item, Layout, RunSource, SkippedRow, read_items
from retouch.outputs.export.parquet import Parquet
from retouch.outputs.export.row_filter import TEXTS, choose_rows
from retouch.outputs.export.shard_writer import Limits, Shard, Writer
from retouch.outputs.export.webdataset import WebDataset
from retouch.outputs.image_paths import absolute
from retouch.outputs.run_record import read_run, version_of
from retouch.redaction import redacted_all
from retouch.schema import SUCCESS

EXPORT_FILE: Final = "export.json"
THREADS: Final = 16  # files deleted at the same time
_OURS: Final = re.compile(  # the files of an export, besides export.json, below its folder
    rf"{CARD}|{METADATA}|shard-\d{{6}}\.tar|data/train-\d{{5}}\.parquet|images/[0-9a-f]{{2}}/[^/]+"
)


@dataclass(frozen=True)
class ExportRequest:
    """The options of an export."""

    output: str
    dest: str
    format: Format
    layout: Layout = "edited"
    where: str | None = None
    statuses: tuple[str, ...] = (SUCCESS,)
    columns: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    provenance: bool = True
    signing: Signing | None = None
    overwrite: bool = False
    manifest: str | None = None  # the run's if None


@dataclass(frozen=True)
class ExportResult:
    """The outcome of an export."""

    rows: int
    left_out: Mapping[str, int]  # reason to rows, the skipped ones included
    skipped: tuple[SkippedRow, ...]  # rows that were chosen but could not be exported
    shards: tuple[Shard, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 if every chosen row was exported, else 1."""
        return int(bool(self.skipped))

    def text(self) -> str:
        """Return the counts as one line."""
        reasons = ", ".join(f"{rows} {reason}" for reason, rows in self.left_out.items())
        out = sum(self.left_out.values())
        return f"{self.rows} rows exported, {out} left out{f': {reasons}' if reasons else ''}"


def export_dataset(request: ExportRequest, log: Callable[[str], None] = lambda line: None) -> ExportResult:
    """Write the dataset.

    Raises:
        ConfigError: an option is invalid, no row is chosen, or the destination is not empty.
        OutputError: the folder holds no run.
        StorageError: something could not be read or written; the same call with ``overwrite`` starts again.
    """
    _refuse_own_output(request)
    record = read_run(request.output)
    table = results.read(request.output)
    requests = _read_requests(request, record, table)
    choice = choose_rows(
        table,
        results.read_requests(request.output),
        _texts(requests),
        statuses=request.statuses,
        where=request.where,
        columns=request.columns,
    )
    types = pa.schema([choice.rows.schema.field(name) for name in choice.columns])
    writer = _make_writer(request, types, log)
    signer = Signer(request.signing) if request.signing else None
    _prepare_destination(request)
    source = RunSource(request.output, record, requests.table, requests.changed, request.provenance, signer)
    skipped: list[SkippedRow] = []
    rows = 0
    for some in read_items(source, choice, request.layout):
        items = [item for item in some if isinstance(item, Item)]
        skipped += [item for item in some if isinstance(item, SkippedRow)]
        writer.add(items)
        rows += len(items)
        del some, items  # frees the images while the next ones are read
    left_out = dict(sorted((Counter(choice.left_out) + Counter(row.reason for row in skipped)).items()))
    done = ExportResult(rows, left_out, tuple(skipped), tuple(writer.close()), requests.notes)
    facts = Facts(
        absolute(request.dest).rpartition("/")[2],
        request.format,
        request.layout,
        redacted_all(record),
        rows,
        {column.name: str(column.type) for column in types},
        _selection(request),
        request.provenance,
        signer is not None,
    )
    storage.write_bytes(storage.join(request.dest, CARD), render_card(facts).encode("utf-8", "replace"))
    storage.write_bytes(storage.join(request.dest, EXPORT_FILE), _encode(_export_record(request, record, done, types)))
    return done


@dataclass(frozen=True)
class _Requests:
    """The manifest of the run, compared with what was edited."""

    table: pa.Table | None  # None if it cannot be read
    changed: frozenset[str]  # keys whose request has changed since the run
    notes: tuple[str, ...]


def _read_requests(request: ExportRequest, record: Mapping[str, Any], rows: pa.Table) -> _Requests:
    """Read the manifest and compare its fingerprints with those of the results."""
    wanted = rows.filter(pc.is_in(rows["status"], pa.array(request.statuses, pa.string())))
    try:
        table = manifest.read(request.manifest or record["job"]["manifest"], defer_images=True).table
        table = row_sets.with_keys(table, wanted)
        now = with_fingerprints(table, recorded_identity(record))
    except RetouchError as error:
        if request.layout == "pairs":
            raise ConfigError(f"layout pairs needs the manifest: {error}; give its location with --manifest") from None
        return _Requests(None, frozenset(), (f"no prompts: {error}; give the manifest's location with --manifest",))
    changed = frozenset(row_sets.without(wanted, now)["key"].to_pylist())
    notes = (f"no prompt for {len(changed)} rows: {CHANGED}",) if changed and request.layout == "edited" else ()
    return _Requests(table, changed, notes)


def _texts(requests: _Requests) -> pa.Table:
    """Return the prompts of the requests that have not changed."""
    if requests.table is None:
        return pa.table({"key": pa.array([], pa.string())})
    names = [name for name in TEXTS if name in requests.table.column_names]
    changed = pa.table({"key": pa.array(sorted(requests.changed), pa.string())})
    same = row_sets.without_keys(requests.table.select(["key", *names]), changed)
    return pa.table(
        {name: without_credentials(same[name]) if name in TEXTS else same[name] for name in same.column_names}
    )


def _make_writer(request: ExportRequest, types: pa.Schema, log: Callable[[str], None]) -> Writer:
    if request.format == "webdataset":
        return WebDataset(request.dest, request.limits, log)
    if request.format == "parquet":
        return Parquet(request.dest, request.limits, log, request.layout, types)
    return ImageFolder(request.dest, log, request.layout, types.names)


def _refuse_own_output(request: ExportRequest) -> None:
    if f"{absolute(request.dest)}/".startswith(f"{absolute(request.output)}/"):
        raise ConfigError(
            f"{request.dest} is in the run's own output, which verify and later runs read; give another folder"
        )


def _prepare_destination(request: ExportRequest) -> None:
    """Mark the destination as unfinished and delete an earlier export; raise ConfigError if it holds anything else."""
    present = storage.list_files(request.dest)
    file = storage.join(request.dest, EXPORT_FILE)
    if present and not (request.overwrite and file in present):
        what = "an earlier export" if file in present else "files that no export wrote"
        advice = "give --overwrite, or another folder" if file in present else "give another folder"
        raise ConfigError(f"{request.dest} holds {what}; {advice}")
    storage.write_bytes(file, _encode({"state": "unfinished"}))
    start = len(storage.join(request.dest, "x")) - 1
    ours = [path for path in present if _OURS.fullmatch(path[start:])]
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(storage.delete, ours))


def _export_record(
    request: ExportRequest, record: Mapping[str, Any], done: ExportResult, types: pa.Schema
) -> dict[str, Any]:
    """Return the content of ``export.json``."""
    return redacted_all(
        {
            "state": "finished",
            "output": request.output,
            "job": record["job"]["name"],
            "retouch": version_of("retouch"),
            "format": request.format,
            "layout": request.layout,
            "statuses": list(request.statuses),
            "where": request.where,
            "columns": {column.name: str(column.type) for column in types},
            "provenance": request.provenance,
            "content_credentials": request.signing is not None,
            "rows": done.rows,
            "left_out": dict(done.left_out),
            "lacking": {row.key: f"{row.reason}: {row.detail}" for row in done.skipped},
            "files": [asdict(shard) for shard in done.shards],
        }
    )


def _selection(request: ExportRequest) -> str:
    """Return the selection of rows in words, for the card."""
    statuses = " or ".join(f"`{status}`" for status in request.statuses)
    return f"rows of status {statuses}" + (f" where `{' '.join(request.where.split())}`" if request.where else "")


def _encode(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1).encode()
