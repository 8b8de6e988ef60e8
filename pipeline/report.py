"""Results to one self-contained HTML gallery, from storage alone. Knows neither the run that made them nor a device.

The page loads nothing: pictures are ``data:`` URIs, and a content security policy forbids all else. Every text in it
comes from somebody's manifest and is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import addresses, images, manifest, results, storage
from pipeline.config import MaskSpec
from pipeline.errors import ObjectMissing, RetouchError
from pipeline.plan import read_run
from pipeline.samples import Sample
from pipeline.schema import FAILURES, REQUEST_COLUMNS, RESULT_FIELDS, STATUSES, Mask, Pixels
from pipeline.selection import Section, is_number, score_columns, sections
from pipeline.specs import DecodeSpec
from pipeline.stages import decode
from pipeline.thumbnails import Picture, difference, histogram, overlay, thumbnail

REPORT_FILE: Final = "report.html"
SUMMARY_FILE: Final = "summary.json"
THREADS: Final = 8  # Pillow lets go of the interpreter while it decodes, scales and encodes
KEYS_SHOWN: Final = 50  # of a group of failures
MESSAGES_SHOWN: Final = 5
FINGERPRINT: Final = {"fingerprint": ""}  # decode wants one; the gallery has no use for it


@dataclass(frozen=True)
class Finished:
    """A run's output, as read from storage."""

    output: str
    record: Mapping[str, Any]  # run.json
    summary: Mapping[str, Any]  # summary.json; empty while the run goes on
    table: pa.Table  # results, each key once
    asked: int
    rows: pa.Table  # the manifest; empty where it cannot be read
    unreadable: str  # why not

    @property
    def job(self) -> Mapping[str, Any]:
        """The job as it was run."""
        job: Mapping[str, Any] = self.record["job"]
        return job

    @property
    def caller(self) -> list[str]:
        """The caller's columns among those of the results."""
        ours = {*REQUEST_COLUMNS, *RESULT_FIELDS.names}
        return [name for name in self.rows.column_names if name in self.table.column_names and name not in ours]

    @property
    def scores(self) -> list[str]:
        """The score columns of the results."""
        return score_columns(self.table.schema, self.caller)


@dataclass(frozen=True)
class Figure:
    """One picture of a tile with what is written under it."""

    name: str
    picture: Picture | None
    note: str = ""
    href: str = ""  # the file itself, relative to the page


@dataclass(frozen=True)
class Tile:
    """One row of the gallery."""

    key: str
    status: str
    prompt: str
    figures: Sequence[Figure]
    scores: Mapping[str, Any]
    columns: Mapping[str, Any]  # the caller's
    result: Mapping[str, Any]
    note: str


def write(output: str) -> str:
    """Write the gallery of a run's output, over one that is there; the same output gives the same bytes.

    Returns:
        Its address.

    Raises:
        OutputError: there is no run.
        StorageError: the results cannot be read, or the page not be written. An image that cannot be read is no
            error: its tile says so.
    """
    page = storage.join(output, REPORT_FILE)
    storage.write_bytes(page, render(read(output)).encode("utf-8", "replace"))
    return page


def read(output: str) -> Finished:
    """What storage holds of a run."""
    record = read_run(output)
    rows, unreadable = pa.table({"key": pa.array([], pa.string())}), ""
    try:
        rows = manifest.read(record["job"]["manifest"]).table
    except RetouchError as error:
        unreadable = str(error)
    table = results.read(output)
    return Finished(output, record, _summary(output), table, len(results.read_requests(output)), rows, unreadable)


def render(run: Finished) -> str:
    """The page."""
    chosen = sections(run.table, run.scores, run.job.get("quality", {}).get("thresholds", {}))
    tiles = _tiles(run, chosen)
    loader = jinja2.PackageLoader("pipeline")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    style, script = (loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js"))
    return environment.get_template("report.html.jinja").render(
        run=run,
        job=run.job,
        counts=_counts(run),
        groups=_failure_groups(run.table),
        distributions=_distributions(run),
        median_seconds=_median(run.table["edit_seconds"].to_pylist()),
        sections=[(section, [(row, tiles[row]) for row in section.rows]) for section in chosen],
        present=[status for status in STATUSES if any(tile.status == status for tile in tiles.values())],
        shown_at={tile.key: f"row-{number}-{row}" for number, row, tile in _placed(chosen, tiles)},
        style=style,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def number(value: Any) -> str:
    """A score or count for people: four digits, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _summary(output: str) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads(storage.read_bytes(storage.join(output, SUMMARY_FILE)))
    except ObjectMissing:
        return {}
    return summary


def _counts(run: Finished) -> list[tuple[str, int]]:
    """Status to rows, which add up to those asked for; success is there even if it is none."""
    counted = Counter(run.table["status"].to_pylist())
    counts = [(status, counted[status]) for status in STATUSES if counted[status] or status == STATUSES[0]]
    missing = run.asked - run.table.num_rows
    return [*counts, ("not answered", missing)] if missing > 0 else counts


def _failure_groups(table: pa.Table) -> list[dict[str, Any]]:
    """Failed rows by status and error type, the largest group first, with its messages and keys."""
    failed = table.filter(pc.is_in(table["status"], pa.array(FAILURES)))
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in failed.select(["key", "status", "error_type", "error_stage", "error_message"]).to_pylist():
        rows[row["status"], row["error_type"] or "unknown"].append(row)
    groups = sorted(rows.items(), key=lambda group: (-len(group[1]), group[0]))
    return [
        {
            "status": status,
            "type": kind,
            "count": len(members),
            "stages": sorted({row["error_stage"] or "unknown" for row in members}),
            "messages": Counter(row["error_message"] or "" for row in members).most_common(MESSAGES_SHOWN),
            "kinds": len({row["error_message"] for row in members}),
            "keys": [row["key"] for row in members[:KEYS_SHOWN]],
        }
        for (status, kind), members in groups
    ]


def _distributions(run: Finished) -> list[dict[str, Any]]:
    """Of every score with numbers: how many rows have it, and how it is spread."""
    found = []
    for name in run.scores:
        kind = run.table.schema.field(name).type
        if not (is_number(kind) or pa.types.is_boolean(kind)):
            continue
        values = np.array([value for value in run.table[name].to_pylist() if value is not None], dtype=np.float64)
        values = values[np.isfinite(values)]
        if values.size:
            spread = {"min": values.min(), "median": np.median(values), "mean": values.mean(), "max": values.max()}
            spread = {key: float(value) for key, value in spread.items()}
            found.append({"name": name, "rows": values.size, **spread, "bars": histogram(values)})
    return found


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value]
    return statistics.median(known) if known else None


def _placed(chosen: Sequence[Section], tiles: Mapping[int, Tile]) -> list[tuple[int, int, Tile]]:
    """Section number, row number and tile of every place; of a row shown twice the first place comes last."""
    return [(number, row, tiles[row]) for number, section in reversed(list(enumerate(chosen))) for row in section.rows]


def _tiles(run: Finished, chosen: Sequence[Section]) -> dict[int, Tile]:
    """Tiles of all chosen rows, made side by side."""
    numbers = sorted({row for section in chosen for row in section.rows})
    answers = run.table.take(pa.array(numbers, pa.int64())).to_pylist()
    keys = pa.array([answer["key"] for answer in answers], pa.string())
    wanted = run.rows.filter(pc.is_in(run.rows["key"], keys))
    requests = {request["key"]: request for request in wanted.to_pylist()}
    with ThreadPoolExecutor(THREADS) as threads:
        tiles = threads.map(lambda answer: _tile(run, answer, requests.get(answer["key"])), answers)
        return dict(zip(numbers, tiles, strict=True))


def _tile(run: Finished, answer: Mapping[str, Any], request: Mapping[str, Any] | None) -> Tile:
    sample = _sample(run, request)
    figures = [*_source_figures(sample, answer)]
    output, problem = _output(run.output, answer["output"])
    note = ""
    if answer["output"]:
        picture = None if output is None else thumbnail(output.pixels, output.alpha)
        figures.append(Figure("after", picture, problem, _href(answer["output"])))
    if output is not None and sample.source is not None and sample.mask is not None:
        note = _outside(figures, sample.source, output.pixels, sample.mask, answer["background_changed_px"])
    figures += _runners_up(run.output, answer["runners_up"] or ())
    if sample.exemplar is not None:
        figures.insert(1, Figure("exemplar", thumbnail(sample.exemplar)))
    return Tile(
        key=answer["key"],
        status=answer["status"],
        prompt=(request or {}).get("prompt") or "",
        figures=figures,
        scores={name: answer[name] for name in run.scores},
        columns={name: answer[name] for name in run.caller},
        result=answer,
        note=note,
    )


def _sample(run: Finished, request: Mapping[str, Any] | None) -> Sample:
    """A row's inputs; where only its mask or exemplar is bad, at least the image, with the failure beside it."""
    if request is None:
        why = run.unreadable or "the manifest has no row of this key any more"
        return decode({"key": "", "image": None, **FINGERPRINT}, DecodeSpec(frozenset())) if not why else _absent(why)
    spec = DecodeSpec(frozenset({"exemplar"}), MaskSpec.model_validate(run.job.get("mask", {})))
    return decode({**request, **FINGERPRINT}, spec)


