"""The gallery of a run: one self-contained HTML page, made from storage alone.

The page loads nothing: pictures are ``data:`` URIs, and its content security policy forbids everything else. Texts come
from manifests and are escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from retouch import storage
from retouch.errors import ObjectMissing, RetouchError
from retouch.manifests import deferred_images
from retouch.manifests import reader as manifest
from retouch.manifests.decode import recorded_spec
from retouch.outputs import changes, results
from retouch.outputs.changes import Changes
from retouch.outputs.event_log import read_calls
from retouch.outputs.report.compare import OtherRun, compare_scores, read_other_runs
from retouch.outputs.report.funnel import make_funnel
from retouch.outputs.report.selection import Section, choose_sections, is_number, score_columns
from retouch.outputs.report.thumbnails import LARGEST, histogram
from retouch.outputs.report.tiles import Tile, image_reader, make_tile, other_result
from retouch.outputs.report.timeline import Timeline, make_timeline
from retouch.outputs.run_record import SUMMARY_FILE, read_run
from retouch.redaction import redacted, redacted_all
from retouch.schema import FAILURES, RESULT_FIELDS, STATUSES, SUCCESS

REPORT_FILE: Final = "report.html"
COMPARE_FILE: Final = "compare.html"
THREADS: Final = 8  # Pillow releases the GIL while it decodes, scales and encodes
KEYS_SHOWN: Final = 50  # per group of failures
MESSAGES_SHOWN: Final = 5
MAX_PICTURES: Final = 9_000_000  # characters of a page's pictures, so that it can be mailed and opens quickly
SIDES: Final = (LARGEST, 224, 160, 112, 64)  # longer side of a picture in pixels; the largest within ``MAX_PICTURES``
_PICTURE: Final = re.compile(r"data:image/\w+;base64,[A-Za-z0-9+/=]+")  # long, and without any user's text


@dataclass(frozen=True)
class RunData:
    """What the gallery shows of a run, read from storage."""

    output: str
    record: Mapping[str, Any]  # run.json
    summary: Mapping[str, Any]  # summary.json; empty until the run has finished
    table: pa.Table  # results, one row per key
    requested: int  # rows
    requests: pa.Table  # the manifest; empty if it cannot be read
    unreadable: str  # why not
    changes: Changes | None = None  # since the run before, if there was one
    timeline: Timeline | None = None  # of the latest call that committed rows
    others: tuple[OtherRun, ...] = ()  # runs on the same keys to compare with

    @property
    def job(self) -> Mapping[str, Any]:
        """The job as it ran."""
        job: Mapping[str, Any] = self.record["job"]
        return job

    @property
    def caller(self) -> list[str]:
        """The caller's columns among those of the results."""
        ours = set(RESULT_FIELDS.names)
        return [n for n in self.requests.column_names if n in self.table.column_names and n not in ours]


def write(output: str, manifests: str | Sequence[str] | None = None, others: Sequence[str] = ()) -> str:
    """Write the gallery of a run's output, replacing an earlier one; return its URI.

    Args:
        output: the output folder.
        manifests: URIs of the manifest; those of the run's record if None, which have no credentials.
        others: outputs of other runs, whose images and scores of the same keys are shown next to this run's; the page
            is then ``COMPARE_FILE``.

    Raises:
        OutputError: the folder holds no run.
        StorageError: the results cannot be read, or the page cannot be written. An image that cannot be read is noted
            in its tile.
    """
    page = storage.join(output, COMPARE_FILE if others else REPORT_FILE)
    run = read(output, manifests)
    if others:
        run = replace(run, others=read_other_runs(run.record["job"]["name"], others))
    storage.write_bytes(page, render(run).encode("utf-8", "replace"))
    return page


def read(output: str, manifests: str | Sequence[str] | None = None) -> RunData:
    """Read a run from storage. Raises as ``write`` does."""
    record = redacted_all(read_run(output))
    requests, unreadable = pa.table({"key": pa.array([], pa.string())}), ""
    try:
        requests = manifest.read(manifests or record["job"]["manifest"], defer_images=True).table
    except RetouchError as error:
        unreadable = str(error)
    requested = results.read_requests(output).num_rows
    pace = make_timeline(read_calls(output))
    table = results.read(output)
    return RunData(output, record, _summary(output), table, requested, requests, unreadable, _changes(output), pace)


def render(run: RunData) -> str:
    """Return the page; deterministic."""
    scores = score_columns(run.table.schema, run.caller)
    thresholds = run.job["quality"]["thresholds"]
    chosen = choose_sections(run.table, scores, thresholds)
    tiles = _tiles(run, chosen, scores)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("retouch.outputs.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_without_credentials,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "as_given": _as_given, "quoted": shlex.quote}
    style, script = (_source(environment, name) for name in ("report.css", "report.js"))
    return environment.get_template("report.html.jinja").render(
        run=run,
        job=run.job,
        counts=_counts(run),
        funnel=make_funnel(run.table),
        groups=_failure_groups(run.table),
        changed=_changed_keys(run.changes),
        distributions=_distributions(run.table, scores),
        sections=chosen,
        tiles=[(row, tile, _views(row, chosen)) for row, tile in tiles.items()],
        statuses=[status for status in STATUSES if any(tile.status == status for tile in tiles.values())],
        anchors={tile.key: f"tile-{row}" for row, tile in tiles.items()},
        compared=compare_scores(run.table, run.others, scores, thresholds),
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _without_credentials(value: Any) -> Any:
    """Redact a value of the template; Jinja passes every value through here before it is escaped."""
    if isinstance(value, Markup):
        return Markup(redacted(value))
    return redacted(value) if isinstance(value, str) and not _PICTURE.fullmatch(value) else value


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _number(value: Any) -> str:
    """Return a score or count with four digits, or a dash if there is none."""
    if value is None:
        return "–"  # noqa: RUF001 (an en dash is meant)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_given(text: str) -> str:
    """Return an error with the job's relative paths, which reading the manifest made absolute."""
    return text.replace(f"{Path.cwd()}/", "")


def _summary(output: str) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(storage.read_bytes(storage.join(output, SUMMARY_FILE)))
    except ObjectMissing:
        return {}
    return summary


def _changes(output: str) -> Changes | None:
    known = changes.history(output)
    found = changes.read(known[0]) if known else None
    return found if found is not None and found.against is not None else None


def _changed_keys(found: Changes | None) -> list[tuple[str, list[str], int]]:
    """Return each kind of change with its first keys and its number of rows."""
    kinds = [(kind, sorted(found.of(kind).to_pylist())) for kind in changes.KINDS] if found else []
    return [(kind.replace("_", " "), keys[:KEYS_SHOWN], len(keys)) for kind, keys in kinds if keys]


def _counts(run: RunData) -> list[tuple[str, int]]:
    """Return status and rows, which add up to the requested ones; success is listed even if it is zero."""
    counted = Counter(run.table["status"].to_pylist())
    counts = [(status, counted[status]) for status in STATUSES if counted[status] or status == SUCCESS]
    missing = run.requested - run.table.num_rows
    return [*counts, ("not done yet", missing)] if missing > 0 else counts


def _failure_groups(table: pa.Table) -> list[dict[str, Any]]:
    """Return groups of failed rows by status and error type, largest first, with messages and keys."""
    failed = table.filter(pc.is_in(table["status"], pa.array(FAILURES)))
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in failed.select(["key", "status", "error_type", "error_stage", "error_message"]).to_pylist():
        groups[row["status"], row["error_type"] or "unknown"].append(row)
    return [
        {
            "status": status,
            "type": kind,
            "count": len(rows),
            "stages": sorted({row["error_stage"] or "unknown" for row in rows}),
            "messages": Counter(row["error_message"] or "" for row in rows).most_common(MESSAGES_SHOWN),
            "different": len({row["error_message"] for row in rows}),
            "keys": [row["key"] for row in rows[:KEYS_SHOWN]],
        }
        for (status, kind), rows in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    ]


def _distributions(table: pa.Table, scores: Sequence[str]) -> list[dict[str, Any]]:
    """Return the distribution of each score; a boolean counts as 0 or 1, so its mean is the fraction of True."""
    found = []
    for name in scores:
        kind = table.schema.field(name).type
        if not is_number(kind) and not pa.types.is_boolean(kind):
            continue
        values = np.array([value for value in table[name].to_pylist() if value is not None], dtype=np.float64)
        values = values[np.isfinite(values)]
        if values.size:
            low, middle, mean, high = values.min(), np.median(values), values.mean(), values.max()
            spread = {"min": float(low), "median": float(middle), "mean": float(mean), "max": float(high)}
            found.append({"name": name, "rows": int(values.size), **spread, "bars": histogram(values)})
    return found


def _views(row: int, chosen: Sequence[Section]) -> str:
    """Return the numbers of the sections that a row is in, for the page's script."""
    return " ".join(str(place) for place, section in enumerate(chosen) if row in section.rows)


def _tiles(run: RunData, chosen: Sequence[Section], scores: Sequence[str]) -> dict[int, Tile]:
    """Return the tiles of all sections by row number, each row once, with pictures that fit ``MAX_PICTURES``."""
    rows = list(dict.fromkeys(row for section in chosen for row in section.rows))
    for side in SIDES:
        tiles = _make_tiles(run, rows, scores, side)
        if sum(tile.weight for tile in tiles.values()) <= MAX_PICTURES:
            break
    return tiles


def _make_tiles(run: RunData, rows: Sequence[int], scores: Sequence[str], side: int) -> dict[int, Tile]:
    """Return the tiles of these rows, made by several threads."""
    shown = run.table.take(pa.array(rows, pa.int64())).to_pylist()
    keys = pa.array([row["key"] for row in shown], pa.string())
    wanted = run.requests.filter(pc.is_in(run.requests["key"], keys))
    requests = {request["key"]: request for request in deferred_images.load_deferred(wanted).to_pylist()}
    how = recorded_spec(run.job, frozenset({"exemplar"}))
    missing = run.unreadable or "the manifest no longer has a row with this key"
    read_image = image_reader(run.output, shown)
    others = [other.of_keys(keys) for other in run.others]

    def tile(row: Mapping[str, Any]) -> Tile:
        key = row["key"]
        made = make_tile(
            read_image,
            row,
            requests.get(key),
            how=how,
            missing=missing,
            scores=scores,
            columns=run.caller,
            output_size=run.job.get("output_size", "native"),
            side=side,
        )
        found = (other_result(other.run, other.read_image, other.rows.get(key), scores, side) for other in others)
        return replace(made, others=tuple(found))

    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(rows, threads.map(tile, shown), strict=True))
