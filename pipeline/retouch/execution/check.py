"""A manifest or a job looked over before it costs anything: which rows would fail, and how; what looks amiss.

Rows go through the stations that a run has, less the networks' passes, so that the two cannot disagree: ``stages``
decodes them, and where there is a job its engine, loaded on the CPU, answers with an editor that edits nothing.
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from retouch.errors import ConfigError, EditError, LoadError, StorageError
from retouch.execution import check_hints as hints
from retouch.execution import stages, timeouts
from retouch.execution.plan import Plan, make_plan, refuse_another_job
from retouch.execution.planning import strata
from retouch.imaging import codec
from retouch.jobs.config import DeadlineSpec, EditJob, QualitySpec, load_job
from retouch.manifests import decode, deferred_images, reader
from retouch.manifests.columns import IMAGE_COLUMNS
from retouch.manifests.decode import DecodeSpec
from retouch.manifests.samples import Failure, Sample
from retouch.schema import REQUEST_COLUMNS

if TYPE_CHECKING:
    from retouch.execution.engine import Engine

ROWS_AT_ONCE: Final = 32  # that are in memory with their pixels
LARGE: Final = 16_000  # pixels a side from which on there is a format that cannot hold an image
# Without a job whatever columns name is read.
ALL: Final = DecodeSpec(frozenset({"mask", "exemplar", "prompt"}), seconds=DeadlineSpec().decode)
JOBS: Final = (".yaml", ".yml", ".json")
_SHOWN: Final = 3  # keys of a kind that the text shows
_LONGEST: Final = 60  # characters of a key that it shows


@dataclass(frozen=True)
class Checkup:
    """What looking over a manifest's rows has shown."""

    rows: int  # of the manifest
    read: int  # that were looked at
    failed: Mapping[str, Failure] = field(default_factory=dict)  # key to how the row would be answered
    hints: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name (of ``hints.HINTS``) to keys
    columns: tuple[str, ...] = ()  # what there is to say of columns, a line each

    @property
    def ok(self) -> bool:
        """Whether all rows that were looked at get as far as the networks."""
        return not self.failed

    @property
    def exit_code(self) -> int:
        """0 where no row would fail, hints or not; else 1."""
        return 0 if self.ok else 1

    def text(self) -> str:
        """For people: the count, then a few lines for each class of errors, and one for each hint."""
        of = f" of {self.rows}" if self.read < self.rows else ""
        return "\n".join(
            [
                f"{self.read}{of} rows read: {self.read - len(self.failed)} fine, {len(self.failed)} would fail",
                *self._said_failures(),
                *self._said_hints(),
                *(f"hint: {line}" for line in self.columns),
            ]
        )

    def _said_failures(self) -> Iterator[str]:
        kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
        for key, failure in self.failed.items():
            kinds[failure.status, failure.type].append(key)
        for (status, kind), keys in sorted(kinds.items(), key=lambda found: (-len(found[1]), found[0])):
            yield f"{status}, {kind}: {len(keys)}"
            yield from (f"  {_shown(key)}: {self.failed[key].message}" for key in keys[:_SHOWN])
            if len(keys) > _SHOWN:
                yield f"  and {len(keys) - _SHOWN} more"

    def _said_hints(self) -> Iterator[str]:
        for name, meaning in hints.HINTS.items():
            if keys := self.hints.get(name, ()):
                more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
                yield f"hint: {name}: {', '.join(map(_shown, keys[:_SHOWN]))}{more}: {meaning}"


def check(target: str, overrides: Sequence[str] = (), *, sample: int | None = None, date: str | None = None) -> Checkup:
    """Look over a manifest, or a job with its manifest, editor, metrics and weights.

    Nothing is written and no network runs, so what one makes of a row (NaN, say) is not told.

    Args:
        target: a job file (``.yaml``, ``.yml``, ``.json``), or what a job's ``manifest`` may be.
        overrides: ``a.b=value``, of a job.
        sample: look at this many rows only, the same ones every time.
        date: of a job, as ``load_job`` takes it.

    Raises:
        StopRun: the manifest or the job is wrong as a whole, as a run would say.
    """
    if not target.endswith(JOBS):
        if overrides:
            raise ConfigError(f"--set is for jobs, and {target} is taken for a manifest; a job ends in .yaml")
        return _looked_over(reader.read(target, defer_images=True), _Manifest(ALL), sample)
    job = load_job(target, overrides, date)
    if not isinstance(job, EditJob):
        raise ConfigError(f"{target} is of kind {job.kind}; retouch check takes jobs of kind edit, and manifests")
    plan = make_plan(job)
    refuse_another_job(plan)
    return _looked_over(reader.read(job.manifests, defer_images=True), _Job.of(plan), sample)


def rows_left(plan: Plan, sample: int | None) -> Checkup:
    """Look over the rows that a plan has left, as ``check`` does a job's, and say nothing of columns."""
    rows = reader.Manifest(plan.todo.drop_columns(["fingerprint"]), (), {})
    return replace(_looked_over(rows, _Job.of(plan), sample), columns=())


@dataclass(frozen=True)
class _Manifest:
    """For rows without a job: what their columns name must be there and mean something."""

    decode: DecodeSpec

    def failures(self, samples: Sequence[Sample]) -> list[Failure | None]:
        """How each would be answered; None where nothing speaks against it."""
        return [sample.failure for sample in samples]


@dataclass(frozen=True)
class _Job:
    """For rows of a job: its engine says what it would refuse."""

    decode: DecodeSpec
    engine: Engine
    image_format: str

    @classmethod
    def of(cls, plan: Plan) -> _Job:
        """Load all that the job names.

        Raises:
            StopRun: as a run would say.
        """
        from retouch.execution.engine import Engine

        # One candidate of a row fails as all do. Without output, since a check writes no markers.
        spec = replace(plan.engine, candidates=1, keep=1, quality=QualitySpec(), output=None, seconds=None)
        return cls(plan.decode, Engine(spec, "cpu", dry_run=True), plan.job.image_format)

    def failures(self, samples: Sequence[Sample]) -> list[Failure | None]:
        """How each would be answered; None where nothing speaks against it."""
        return [answer.failure or self._too_large(answer.sample) for answer in self.engine.edit(samples)]

    def _too_large(self, sample: Sample) -> Failure | None:
        if sample.source is None or max(sample.source.shape) < LARGE:
            return None
        try:
            codec.encode(sample.source, self.image_format)
        except EditError as error:
            return Failure.of(error, "encode")
        return None


def _looked_over(rows: reader.Manifest, doctor: _Manifest | _Job, sample: int | None) -> Checkup:
    table = rows.table if sample is None else rows.table.take(strata.sample_rows(rows.table["key"].to_pylist(), sample))
    requests = table.select([n for n in (*REQUEST_COLUMNS, *deferred_images.COLUMNS) if n in table.column_names])
    failed: dict[str, Failure] = {}
    found: dict[str, list[str]] = defaultdict(list)
    for start in range(0, table.num_rows, ROWS_AT_ONCE):
        some = deferred_images.load_deferred(requests.slice(start, ROWS_AT_ONCE))
        block = [{**row, "fingerprint": ""} for row in some.to_pylist()]
        looks = _looks(block, doctor.decode)
        failures = doctor.failures([row for row, _ in looks])
        for (row, names), failure in zip(looks, failures, strict=True):
            if failure is not None:
                failed[row.key] = failure
                continue
            for name in names:
                found[name].append(row.key)
    due = {name: tuple(keys) for name, keys in found.items()}
    return Checkup(rows.table.num_rows, table.num_rows, failed, due, tuple(_of_columns(rows)))


def _looks(requests: Sequence[Mapping[str, Any]], spec: DecodeSpec) -> list[tuple[Sample, list[str]]]:
    """Rows as a run would have them after decoding, with the names of their hints."""
    return timeouts.map_with_deadline(
        requests,
        lambda request: _look(request, spec),
        threads=stages.DECODE_THREADS,
        seconds=spec.seconds,
        late=lambda request: (decode.timed_out(request, spec), []),
    )


def _look(request: Mapping[str, Any], spec: DecodeSpec) -> tuple[Sample, list[str]]:
    columns = [name for name in IMAGE_COLUMNS if name != "exemplar" or name in spec.inputs]
    # Fetched once, for decoding and for the hints.
    whole = {**request, **{name: _at_hand(request.get(name), name) for name in columns}}
    sample = decode.decode(whole, spec)
    if sample.failure is not None:
        return sample, []
    files = {name: whole[name] for name in columns if isinstance(whole[name], bytes)}
    prompt = request.get("prompt") if "prompt" in spec.inputs else None
    return sample, list(hints.hints_for_row(sample, files, prompt, spec.mask))


def _at_hand(cell: Any, column: str) -> Any:
    """A cell's bytes; the cell itself where they cannot be had, for the decoder to say why."""
    try:
        return None if cell is None else decode.bytes_of(cell, column)
    except (LoadError, StorageError):
        return cell


def _of_columns(rows: reader.Manifest) -> Iterator[str]:
    own = [name for name in rows.caller.names if name not in rows.renamed.values()]
    if own:
        yield f"columns passed through to the results: {', '.join(own)}"
    for old, new in rows.renamed.items():
        yield f"column {old} is passed through as {new}, since the results have a column {old}"
    missing = [name for name in REQUEST_COLUMNS if name not in rows.table.column_names]
    for name in own:
        for meant in difflib.get_close_matches(name.lower(), missing, n=1, cutoff=0.75):
            yield f"column {name} has no meaning here; was {meant} meant?"


def _shown(key: str) -> str:
    return repr(key if len(key) <= _LONGEST else f"{key[:_LONGEST]}...")
