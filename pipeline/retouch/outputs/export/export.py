"""A run's finished edits as a dataset: chosen, checked, written, counted. Knows no file format's inside.

In the destination ``export.json`` says what is there and what was left out, and comes last: a folder whose
``export.json`` says ``unfinished`` is an export that was cut short. The same call gives the same bytes, signatures
aside.
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
from retouch.outputs import results
from retouch.outputs.export.content_credentials import Signer, Signing
from retouch.outputs.export.dataset_card import CARD, Facts, Format, card
from retouch.outputs.export.image_folder import METADATA, Folder
from retouch.outputs.export.items import CHANGED, Item, Lacking, Layout, Origin, items
from retouch.outputs.export.parquet import Parquet
from retouch.outputs.export.row_filter import TEXTS, choose
from retouch.outputs.export.shard_writer import Limits, Piece, Writer
from retouch.outputs.export.webdataset import WebDataset
from retouch.outputs.image_paths import absolute
from retouch.outputs.run_record import read_run, version_of
from retouch.redaction import redacted_all
from retouch.schema import SUCCESS

EXPORT_FILE: Final = "export.json"
THREADS: Final = 16  # files deleted side by side
_OURS: Final = re.compile(  # what an export puts down beside export.json, below its folder
    rf"{CARD}|{METADATA}|shard-\d{{6}}\.tar|data/train-\d{{5}}\.parquet|images/[0-9a-f]{{2}}/[^/]+"
)


@dataclass(frozen=True)
class Request:
    """What is asked for."""

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
    manifest: str | None = None  # as the run's record has it where None


@dataclass(frozen=True)
class Exported:
    """What became of it."""

    rows: int
    left_out: Mapping[str, int]  # reason to rows, those that are lacking too
    lacking: tuple[Lacking, ...]  # rows that were asked for and could not leave
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 where every row that was asked for has left."""
        return int(bool(self.lacking))

    def text(self) -> str:
        """For people: what left, and what did not by reason."""
        reasons = ", ".join(f"{rows} {reason}" for reason, rows in self.left_out.items())
        out = sum(self.left_out.values())
        return f"{self.rows} rows exported, {out} left out{f': {reasons}' if reasons else ''}"


def export(request: Request, say: Callable[[str], None] = lambda line: None) -> Exported:
    """Write the dataset.

    Raises:
        ConfigError: the request cannot mean anything, no row is left, or the destination holds something.
        OutputError: there is no run.
        StorageError: something could not be read or written; the same call with ``overwrite`` does it again.
    """
    _refuse_inside(request)
    record = read_run(request.output)
    table = results.read(request.output)
    asked = _asked(request, record, table)
    choice = choose(
        table,
        results.read_requests(request.output),
        _texts(asked),
        statuses=request.statuses,
        where=request.where,
        columns=request.columns,
    )
    types = pa.schema([choice.rows.schema.field(name) for name in choice.columns])
    writer = _writer(request, types, say)
    signer = Signer(request.signing) if request.signing else None
    _make_room(request)
    origin = Origin(request.output, record, asked.table, asked.changed, request.provenance, signer)
    lacking: list[Lacking] = []
    rows = 0
    for some in items(origin, choice, request.layout):
        leaving = [item for item in some if isinstance(item, Item)]
        lacking += [item for item in some if isinstance(item, Lacking)]
        writer.add(leaving)
        rows += len(leaving)
        del some, leaving  # while the next ones are fetched
    left_out = dict(sorted((Counter(choice.left_out) + Counter(row.reason for row in lacking)).items()))
    done = Exported(rows, left_out, tuple(lacking), tuple(writer.close()), asked.notes)
    facts = Facts(
        absolute(request.dest).rpartition("/")[2],
        request.format,
        request.layout,
        redacted_all(record),
        rows,
        {column.name: str(column.type) for column in types},
        _selected(request),
        request.provenance,
        signer is not None,
    )
    storage.write_bytes(storage.join(request.dest, CARD), card(facts).encode("utf-8", "replace"))
    storage.write_bytes(storage.join(request.dest, EXPORT_FILE), _encoded(_said(request, record, done, types)))
    return done


@dataclass(frozen=True)
class _Asked:
    """What the rows were asked for, as far as it is still to be had."""

    table: pa.Table | None  # the manifest
    changed: frozenset[str]  # keys whose request is not the one that was answered
    notes: tuple[str, ...]


def _asked(request: Request, record: Mapping[str, Any], answers: pa.Table) -> _Asked:
    """The manifest as it is now, held against the fingerprints of what was answered."""
    leaving = answers.filter(pc.is_in(answers["status"], pa.array(request.statuses, pa.string())))
    try:
        table = manifest.read(request.manifest or record["job"]["manifest"], far=True).table
        rows = row_sets.with_keys(table, leaving)
        now = manifest.with_fingerprints(rows, recorded_identity(record))
    except RetouchError as error:
        if request.layout == "pairs":
            raise ConfigError(f"pairs need what was edited: {error}; give the manifest with --manifest") from None
        return _Asked(None, frozenset(), (f"no prompts: {error}; give the manifest with --manifest",))
    changed = frozenset(row_sets.without(leaving, now)["key"].to_pylist())
    notes = (f"no prompt for {len(changed)} rows: {CHANGED}",) if changed and request.layout == "edited" else ()
    return _Asked(rows, changed, notes)


def _texts(asked: _Asked) -> pa.Table:
    """Texts of the requests that are still those that were answered."""
    if asked.table is None:
        return pa.table({"key": pa.array([], pa.string())})
    names = [name for name in TEXTS if name in asked.table.column_names]
    changed = pa.table({"key": pa.array(sorted(asked.changed), pa.string())})
    same = row_sets.without_keys(asked.table.select(["key", *names]), changed)
    return pa.table(
        {name: without_credentials(same[name]) if name in TEXTS else same[name] for name in same.column_names}
    )


def _writer(request: Request, types: pa.Schema, say: Callable[[str], None]) -> Writer:
    if request.format == "webdataset":
        return WebDataset(request.dest, request.limits, say)
    if request.format == "parquet":
        return Parquet(request.dest, request.limits, say, request.layout, types)
    return Folder(request.dest, say, request.layout, types.names)


def _refuse_inside(request: Request) -> None:
    if f"{absolute(request.dest)}/".startswith(f"{absolute(request.output)}/"):
        raise ConfigError(
            f"{request.dest} lies in the run's own output, which verify and later runs read; give another"
        )


def _make_room(request: Request) -> None:
    """See that the destination is empty, or an earlier export that may be replaced; from now on it is unfinished."""
    present = storage.list_files(request.dest)
    note = storage.join(request.dest, EXPORT_FILE)
    if present and not (request.overwrite and note in present):
        what = "an earlier export" if note in present else "files that no export made"
        advice = "give --overwrite, or another folder" if note in present else "give another folder"
        raise ConfigError(f"{request.dest} holds {what}; {advice}")
    storage.write_bytes(note, _encoded({"state": "unfinished"}))
    start = len(storage.join(request.dest, "x")) - 1
    ours = [file for file in present if _OURS.fullmatch(file[start:])]
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(storage.delete, ours))


def _said(request: Request, record: Mapping[str, Any], done: Exported, types: pa.Schema) -> dict[str, Any]:
    """``export.json``."""
    said = {
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
        "lacking": {row.key: f"{row.reason}: {row.detail}" for row in done.lacking},
        "files": [asdict(piece) for piece in done.pieces],
    }
    return redacted_all(said)


def _selected(request: Request) -> str:
    """Which rows these are, for the card."""
    statuses = " or ".join(f"`{status}`" for status in request.statuses)
    return f"rows of status {statuses}" + (f" where `{' '.join(request.where.split())}`" if request.where else "")


def _encoded(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, indent=1).encode()
