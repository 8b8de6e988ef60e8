"""Results to one self-contained HTML gallery, from storage alone. Knows neither the run that made them nor a device.

The page loads nothing: pictures are ``data:`` URIs, and its content security policy forbids all else. Every text in it
comes from somebody's manifest and is escaped.
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
from retouch.jobs.config import MaskSpec
from retouch.manifests import deferred_images
from retouch.manifests import reader as manifest
from retouch.outputs import changes, results
from retouch.outputs.changes import Changes
from retouch.outputs.event_log import read_calls
from retouch.outputs.report import compare, funnel
from retouch.outputs.report.compare import Beside
from retouch.outputs.report.selection import Section, is_number, score_columns, sections
from retouch.outputs.report.thumbnails import LARGEST, histogram
from retouch.outputs.report.tiles import Tile, make_tile, other, reader
from retouch.outputs.report.timeline import Timeline, make_timeline
from retouch.outputs.run_record import read_run
from retouch.redaction import redacted, redacted_all
from retouch.schema import FAILURES, RESULT_FIELDS, STATUSES, SUCCESS

REPORT_FILE: Final = "report.html"
COMPARE_FILE: Final = "compare.html"
SUMMARY_FILE: Final = "summary.json"
THREADS: Final = 8  # Pillow lets go of the interpreter while it decodes, scales and encodes
KEYS_SHOWN: Final = 50  # of a group of failures
MESSAGES_SHOWN: Final = 5
MOST_PICTURES: Final = 9_000_000  # characters of all of a page's pictures: it is to be mailed and opened at once
SIDES: Final = (LARGEST, 224, 160, 112, 64)  # pixels of a picture's longer side, the first at which they are not more
_PICTURE: Final = re.compile(r"data:image/\w+;base64,[A-Za-z0-9+/=]+")  # long, and none of anybody's words


@dataclass(frozen=True)
class Finished:
    """What storage holds of a run."""

    output: str
    record: Mapping[str, Any]  # run.json
    summary: Mapping[str, Any]  # summary.json; empty while the run goes on
    table: pa.Table  # results, each key once
    asked: int  # rows that were asked for
    requests: pa.Table  # the manifest; empty where it cannot be read
    unreadable: str  # why not
    changes: Changes | None = None  # since the run before, if there was one
    timeline: Timeline | None = None  # of the latest call that answered something
    beside: tuple[Beside, ...] = ()  # other runs on the same keys

    @property
    def job(self) -> Mapping[str, Any]:
        """The job as it was run."""
        job: Mapping[str, Any] = self.record["job"]
        return job

    @property
    def caller(self) -> list[str]:
        """The caller's columns among those of the results."""
        ours = set(RESULT_FIELDS.names)
        return [n for n in self.requests.column_names if n in self.table.column_names and n not in ours]


def write(output: str, manifests: str | Sequence[str] | None = None, beside: Sequence[str] = ()) -> str:
    """Write the gallery of a run's output, over one that is there.

    Args:
        output: the output folder.
        manifests: where the rows stand; as the run's record has it where None, but there credentials are left out.
        beside: outputs of other runs, whose images and scores of the same keys are shown beside this one's; the page
            is ``COMPARE_FILE`` then.

    Returns:
        Its address.

    Raises:
        OutputError: there is no run.
        StorageError: the results cannot be read, or the page cannot be written. An image that cannot be read is no
            error: its tile says so.
    """
    page = storage.join(output, COMPARE_FILE if beside else REPORT_FILE)
    run = read(output, manifests)
    if beside:
        run = replace(run, beside=compare.beside(run.record["job"]["name"], output, beside))
    storage.write_bytes(page, render(run).encode("utf-8", "replace"))
    return page


def read(output: str, manifests: str | Sequence[str] | None = None) -> Finished:
    """What storage holds of a run. Raises as ``write`` does."""
    record = redacted_all(read_run(output))
    requests, unreadable = pa.table({"key": pa.array([], pa.string())}), ""
    try:
        requests = manifest.read(manifests or record["job"]["manifest"], far=True).table
    except RetouchError as error:
        unreadable = str(error)
    asked = results.read_requests(output).num_rows
    pace = make_timeline(read_calls(output))
    table = results.read(output)
    return Finished(output, record, _summary(output), table, asked, requests, unreadable, _changes(output), pace)


def render(run: Finished) -> str:
    """The page. The same output gives the same text."""
    scores = score_columns(run.table.schema, run.caller)
    thresholds = run.job["quality"]["thresholds"]
    chosen = sections(run.table, scores, thresholds)
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
        funnel=funnel.funnel(run.table),
        groups=_failure_groups(run.table),
        changed=_changed_keys(run.changes),
        distributions=_distributions(run.table, scores),
        sections=chosen,
        tiles=[(row, tile, _views(row, chosen)) for row, tile in tiles.items()],
        statuses=[status for status in STATUSES if any(tile.status == status for tile in tiles.values())],
        anchors={tile.key: f"tile-{row}" for row, tile in tiles.items()},
        compared=compare.compared(run.table, run.beside, scores, thresholds),
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _without_credentials(value: Any) -> Any:
    """What a place of the page shows: every text passes here on its way to being escaped."""
    if isinstance(value, Markup):
        return Markup(redacted(value))
    return redacted(value) if isinstance(value, str) and not _PICTURE.fullmatch(value) else value


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _number(value: Any) -> str:
    """A score or count for people: four digits, a dash where there is none."""
    if value is None:
        return "–"  # noqa: RUF001 (an en dash is meant)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_given(text: str) -> str:
    """An error as the job's own relative paths would say it: the manifest made them absolute."""
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
    """Kind of change, its first keys, and how many there are."""
    kinds = [(kind, sorted(found.of(kind).to_pylist())) for kind in changes.KINDS] if found else []
    return [(kind.replace("_", " "), keys[:KEYS_SHOWN], len(keys)) for kind, keys in kinds if keys]


def _counts(run: Finished) -> list[tuple[str, int]]:
    """Status to rows; they add up to those asked for. Success is there even if it is none."""
    counted = Counter(run.table["status"].to_pylist())
    counts = [(status, counted[status]) for status in STATUSES if counted[status] or status == SUCCESS]
    missing = run.asked - run.table.num_rows
    return [*counts, ("not answered yet", missing)] if missing > 0 else counts


def _failure_groups(table: pa.Table) -> list[dict[str, Any]]:
    """Failed rows by status and error type, the largest group first, with its messages and keys."""
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
    """How each score is spread over the rows that have it; of a score that is yes or no, the share of yes."""
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
    """Places of the sections that a row is in, for the page's script."""
    return " ".join(str(place) for place, section in enumerate(chosen) if row in section.rows)


def _tiles(run: Finished, chosen: Sequence[Section], scores: Sequence[str]) -> dict[int, Tile]:
    """Tiles by row number of all that is shown, each row once, in the sections' order."""
    rows = list(dict.fromkeys(row for section in chosen for row in section.rows))
    for side in SIDES:
        tiles = _drawn(run, rows, scores, side)
        if sum(tile.weight for tile in tiles.values()) <= MOST_PICTURES:
            break
    return tiles


def _drawn(run: Finished, rows: Sequence[int], scores: Sequence[str], side: int) -> dict[int, Tile]:
    """Tiles by row number, made side by side."""
    answers = run.table.take(pa.array(rows, pa.int64())).to_pylist()
    keys = pa.array([answer["key"] for answer in answers], pa.string())
    wanted = run.requests.filter(pc.is_in(run.requests["key"], keys))
    requests = {request["key"]: request for request in deferred_images.filled(wanted).to_pylist()}
    mask = MaskSpec.model_validate(run.job["mask"])
    missing = run.unreadable or "the manifest has no row of this key any more"
    fetch = reader(run.output, answers)
    others = [other.of_keys(keys) for other in run.beside]

    def tile(answer: Mapping[str, Any]) -> Tile:
        key = answer["key"]
        made = make_tile(
            fetch,
            answer,
            requests.get(key),
            mask=mask,
            missing=missing,
            scores=scores,
            columns=run.caller,
            side=side,
        )
        beside = (other(o.name, o.fetch, o.answers.get(key), scores, side) for o in others)
        return replace(made, beside=tuple(beside))

    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(rows, threads.map(tile, answers), strict=True))
