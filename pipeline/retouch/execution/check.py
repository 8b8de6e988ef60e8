"""Check a manifest or a job before a run: which rows would fail and why, and what may be a mistake.

Rows are decoded as in a run. Those of a job also pass through its engine, loaded on the CPU, in a dry run: every check
that a run makes, without the networks' forward passes. So check and run cannot disagree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from retouch import plugins
from retouch.errors import ConfigError, EditError, LoadError, StorageError
from retouch.execution import check_hints as hints
from retouch.execution import stages, timeouts
from retouch.execution.plan import Plan, make_plan, refuse_another_job
from retouch.execution.planning import strata
from retouch.imaging import codec
from retouch.jobs.config import DeadlineSpec, EditJob, QualitySpec, load_job
from retouch.manifests import decode, deferred_images, reader
from retouch.manifests.columns import IMAGE_COLUMNS, meant
from retouch.manifests.decode import DecodeSpec
from retouch.manifests.samples import Failure, Sample
from retouch.schema import REQUEST_COLUMNS

if TYPE_CHECKING:
    from retouch.execution.engine import Engine

ROWS_PER_BLOCK: Final = 32  # rows in memory with their pixels
LARGE: Final = 16_000  # pixels per side; some image formats cannot hold larger images
# For a manifest without a job: files of all columns are read.
ALL_INPUTS: Final = DecodeSpec(plugins.INPUTS, seconds=DeadlineSpec().decode)
JOBS: Final = (".yaml", ".yml", ".json")
_SHOWN: Final = 3  # keys per error class that the report shows
_MAX_KEY_LENGTH: Final = 60  # characters of a key that the report shows


@dataclass(frozen=True)
class CheckReport:
    """Findings about the rows of a manifest."""

    rows: int  # in the manifest
    read: int  # rows that were checked
    failed: Mapping[str, Failure] = field(default_factory=dict)  # key to the failure that a run would record
    hints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name (of ``hints.HINTS``) to keys
    columns: tuple[str, ...] = ()  # hints about columns, one line each

    @property
    def ok(self) -> bool:
        """Whether all checked rows would reach the networks."""
        return not self.failed

    @property
    def exit_code(self) -> int:
        """0 if no row would fail, with or without hints; else 1."""
        return 0 if self.ok else 1

    def text(self) -> str:
        """Return a report for people: counts, a few lines per error class, a line per hint."""
        of = f" of {self.rows}" if self.read < self.rows else ""
        return "\n".join(
            [
                f"{self.read}{of} rows read: {self.read - len(self.failed)} fine, {len(self.failed)} would fail",
                *self._failure_lines(),
                *self._hint_lines(),
                *(f"hint: {line}" for line in self.columns),
            ]
        )

    def _failure_lines(self) -> Iterator[str]:
        kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
        for key, failure in self.failed.items():
            kinds[failure.status, failure.type].append(key)
        for (status, kind), keys in sorted(kinds.items(), key=lambda found: (-len(found[1]), found[0])):
            yield f"{status}, {kind}: {len(keys)}"
            yield from (f"  {_shown(key)}: {self.failed[key].message}" for key in keys[:_SHOWN])
            if len(keys) > _SHOWN:
                yield f"  and {len(keys) - _SHOWN} more"

    def _hint_lines(self) -> Iterator[str]:
        for name, meaning in hints.HINTS.items():
            if keys := self.hints.get(name, ()):
                more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
                yield f"hint: {name}: {', '.join(map(_shown, keys[:_SHOWN]))}{more}: {meaning}"


def check(
    target: str, overrides: Sequence[str] = (), *, sample: int | None = None, date: str | None = None
) -> CheckReport:
    """Check a manifest, or a job with its manifest, editor, metrics and weights.

    Nothing is written and no network runs, so failures of a forward pass (NaN, for instance) are not found.

    Args:
        target: a job file (``.yaml``, ``.yml``, ``.json``), or what a job's ``manifest`` may be.
        overrides: ``a.b=value``, for a job.
        sample: check only this many rows, the same ones every time.
        date: for a job, see ``load_job``.

    Raises:
        StopRun: the manifest or the job as a whole is wrong; a run would raise the same.
    """
    if not target.endswith(JOBS):
        if overrides:
            raise ConfigError(
                f"--set is for job files: {target} does not end in .yaml, .yml or .json, so it is read as a manifest"
            )
        return _check_rows(reader.read(target, defer_images=True), _ManifestChecks(ALL_INPUTS), sample)
    job = load_job(target, overrides, date)
    if not isinstance(job, EditJob):
        raise ConfigError(
            f"{target}: kind {job.kind} cannot be checked; retouch check takes manifests and jobs of kind edit"
        )
    plan = make_plan(job)
    refuse_another_job(plan)
    return _check_rows(reader.read(job.manifests, defer_images=True), _JobChecks.of(plan), sample)


def check_remaining(plan: Plan, sample: int | None) -> CheckReport:
    """Check the remaining rows of a plan as ``check`` does those of a job, without hints about columns."""
    rows = reader.Manifest(plan.todo.drop_columns(["fingerprint"]), (), {})
    return replace(_check_rows(rows, _JobChecks.of(plan), sample), columns=())


@dataclass(frozen=True)
class _ManifestChecks:
    """Checks of rows without a job: their files exist and can be decoded."""

    decode: DecodeSpec

    def failures(self, samples: Sequence[Sample]) -> list[Failure | None]:
        """Return each row's failure; None if it is fine."""
        return [sample.failure for sample in samples]


@dataclass(frozen=True)
class _JobChecks:
    """Checks of rows of a job: a dry run of its engine, and the limits of its image format."""

    decode: DecodeSpec
    engine: Engine
    image_format: str

    @classmethod
    def of(cls, plan: Plan) -> _JobChecks:
        """Load the job's editor, metrics and weights.

        Raises:
            StopRun: one of them is wrong; a run would raise the same.
        """
        from retouch.execution.engine import Engine

        # One candidate is enough, because all of a row fail alike. No output, because a check writes no markers.
        spec = replace(plan.engine, candidates=1, keep=1, quality=QualitySpec(), output=None, seconds=None)
        return cls(plan.decode, Engine(spec, "cpu", dry_run=True), plan.job.image_format)

    def failures(self, samples: Sequence[Sample]) -> list[Failure | None]:
        """Return each row's failure; None if it is fine."""
        return [outcome.failure or self._too_large(outcome.sample) for outcome in self.engine.edit(samples)]

    def _too_large(self, sample: Sample) -> Failure | None:
        """Return the failure of a row whose image the job's format cannot hold."""
        if sample.source is None or max(sample.source.shape) < LARGE:
            return None
        try:
            codec.encode(sample.source, self.image_format)
        except EditError as error:
            return Failure.of(error, "encode")
        return None


def _check_rows(rows: reader.Manifest, checks: _ManifestChecks | _JobChecks, count: int | None) -> CheckReport:
    table = rows.table if count is None else rows.table.take(strata.sample_rows(rows.table["key"].to_pylist(), count))
    requests = table.select([n for n in (*REQUEST_COLUMNS, *deferred_images.COLUMNS) if n in table.column_names])
    failed: dict[str, Failure] = {}
    found: dict[str, list[str]] = defaultdict(list)
    for start in range(0, table.num_rows, ROWS_PER_BLOCK):
        loaded = deferred_images.load_deferred(requests.slice(start, ROWS_PER_BLOCK))
        block = [{**row, "fingerprint": ""} for row in loaded.to_pylist()]
        decoded = _decode(block, checks.decode)
        failures = checks.failures([sample for sample, _ in decoded])
        for (sample, names), failure in zip(decoded, failures, strict=True):
            if failure is not None:
                failed[sample.key] = failure
                continue
            for name in names:
                found[name].append(sample.key)
    row_hints = {name: tuple(keys) for name, keys in found.items()}
    return CheckReport(rows.table.num_rows, table.num_rows, failed, row_hints, tuple(_column_hints(rows)))


def _decode(requests: Sequence[Mapping[str, Any]], spec: DecodeSpec) -> list[tuple[Sample, list[str]]]:
    """Return the rows as a run decodes them, with the names of their hints."""
    return timeouts.map_with_deadline(
        requests,
        lambda request: _decode_row(request, spec),
        threads=stages.DECODE_THREADS,
        seconds=spec.seconds,
        late=lambda request: (decode.timed_out(request, spec), []),
    )


def _decode_row(request: Mapping[str, Any], spec: DecodeSpec) -> tuple[Sample, list[str]]:
    columns: list[str] = [name for name in IMAGE_COLUMNS if name in {"image", "mask", *spec.inputs}]
    # Each file is fetched once, for decoding and for the hints.
    fetched = {**request, **{name: _bytes_if_readable(request.get(name), name) for name in columns}}
    sample = decode.decode(fetched, spec)
    if sample.failure is not None:
        return sample, []
    files = {name: fetched[name] for name in columns if isinstance(fetched[name], bytes)}
    is_read = "prompt" in spec.inputs and (spec.canvas is None or spec.canvas.needs_prompt)
    prompt = request.get("prompt") if is_read else None
    return sample, list(hints.hints_for_row(sample, files, prompt, spec.mask, spec.images.max_pixels))


def _bytes_if_readable(cell: Any, column: str) -> Any:
    """Return a cell's bytes; the cell itself if they cannot be read, so that the decoder raises the error."""
    try:
        return None if cell is None else decode.bytes_of(cell, column)
    except (LoadError, StorageError):
        return cell


def _column_hints(rows: reader.Manifest) -> Iterator[str]:
    own = [name for name in rows.caller.names if name not in rows.renamed.values()]
    if own:
        yield f"columns passed through to the results: {', '.join(own)}"
    for old, new in rows.renamed.items():
        yield f"column {old} is passed through as {new}, because the results have a column {old}"
    missing = [name for name in REQUEST_COLUMNS if name not in rows.table.column_names]
    for name in own:
        if (found := meant(name, missing)) is not None:
            yield f"column {name} is not a request column; did you mean {found}?"


def _shown(key: str) -> str:
    return repr(key if len(key) <= _MAX_KEY_LENGTH else f"{key[:_MAX_KEY_LENGTH]}...")
