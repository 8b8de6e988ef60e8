"""Job files to frozen models; an unknown key is an error. Knows what a job may say, not what an editor makes of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from retouch import storage, validation
from retouch.errors import ConfigError, ObjectMissing, StorageError
from retouch.jobs import overrides, placeholders
from retouch.jobs.training import (
    AtLeastOne,
    FinetuneJob,
    JobModel,
    JobWeights,
    MaskSpec,
    Model,
    TargetSpec,
    TaskSpec,
    TrainJob,
    Weights,
    WorkersSpec,
)
from retouch.redaction import redacted

__all__ = [
    "KINDS",
    "DeadlineSpec",
    "EditJob",
    "EditorSpec",
    "EvaluateJob",
    "FinetuneJob",
    "Job",
    "MaskSpec",
    "MetricSpec",
    "Model",
    "QualitySpec",
    "RaySpec",
    "TargetSpec",
    "TaskSpec",
    "Threshold",
    "TrainJob",
    "Weights",
    "WorkersSpec",
    "load_job",
    "parse_job",
]


class EditorSpec(Model):
    """Which editor, on which weights."""

    name: str  # retouch plugins lists the installed ones
    # embedded:shapes, a path, s3://..., hf://repo/file; or one of these a role; or several, tried in order, a role.
    weights: JobWeights
    params: dict[str, Any] = Field(default_factory=dict)  # fields of the editor's Params


class MetricSpec(Model):
    """A metric by name; without ``weights`` it uses the editor's."""

    name: str  # a name alone is short for this mapping
    weights: JobWeights | None = None  # as of the editor, whose they are where it is left out
    options: dict[str, Any] = Field(default_factory=dict)  # further arguments of the metric's load


class Threshold(Model):
    """Bounds that a score must keep, both inclusive."""

    min: float | None = None  # a number in the place of the mapping is short for this one
    max: float | None = None  # for distances


class QualitySpec(Model):
    """What happens to a row whose best candidate misses a threshold."""

    # score: measured only; reject: the row is answered failed_quality; retry: more seeds first.
    mode: Literal["score", "reject", "retry"] = "score"
    thresholds: dict[str, Threshold] = Field(default_factory=dict)  # by score column: clip_score, background_l1, ...
    # retry: rounds of ``candidates`` more seeds, at most; a row goes on until one candidate keeps the thresholds. With
    # more rounds than before, the same command tries only the rows that missed them.
    rounds: int = Field(default=3, ge=1)

    @field_validator("thresholds", mode="before", json_schema_input_type=dict[str, float | Threshold])
    @classmethod
    def _short_thresholds(cls, value: Any) -> Any:
        """``clip_score: 25`` is short for ``clip_score: {min: 25}``."""
        if not isinstance(value, dict):
            return value
        return {k: {"min": v} if isinstance(v, int | float) else v for k, v in value.items()}


class RaySpec(Model):
    """How the work is spread; nothing here changes a pixel but ``batch_size``, which therefore is a run's for good."""

    actors: AtLeastOne | Literal["auto"] = "auto"  # auto: one a GPU, or one a CPU core where there are no GPUs
    # auto: one, or none where there are no GPUs; 0.5 puts two on a GPU that holds both.
    gpus_per_actor: float | Literal["auto"] = "auto"
    batch_size: int = Field(default=8, ge=1)  # rows x candidates in one pass; passes are padded to it
    rows_per_block: AtLeastOne | Literal["auto"] = "auto"  # the unit of loss, retry and commit
    # Longest wait for a GPU + model load + one block; the time in which weights are fetched does not count.
    stall_seconds: int = Field(default=3600, ge=1)
    resources: dict[str, float] = Field(default_factory=dict)  # custom Ray resources that an actor takes


class DriftSpec(Model):
    """When tonight's scores count as moved away from those of earlier nights."""

    # Earlier runs, or calls on this output, whose scores tonight's are held against.
    nights: int = Field(default=7, ge=1)
    # Distance of the two distribution functions (Kolmogorov-Smirnov) from which on a score may have moved.
    distance: float = Field(default=0.2, gt=0, le=1)
    # It has where chance alone would bring such a distance less often than this.
    p_value: float = Field(default=0.01, gt=0, lt=1)
    fail: bool = False  # a run whose scores moved ends with 1


class DeadlineSpec(Model):
    """How long work may take before its rows are tried alone, and in the end answered with ``DeadlineExceeded``."""

    decode: float = Field(default=300.0, gt=0)  # seconds for one row's files to be fetched and decoded
    edit: float = Field(default=1800.0, gt=0)  # for one pass of batch_size entries, metrics included
    write: float = Field(default=900.0, gt=0)  # for one block's images and results


class EditJob(JobModel):
    """``kind: edit``: every row of a manifest through one editor."""

    kind: Literal["edit"] = "edit"
    # Of the run, its submissions and its figures: letters, digits, dots, dashes.
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    manifest: str | tuple[str, ...]  # Parquet file, folder or glob, or several, on any fsspec URL
    output: str  # folder on any fsspec URL; {date}, {name} and {env:VARIABLE} are filled in
    seed: int = Field(default=0, ge=0)  # of all noise, with each row's key
    editor: EditorSpec  # who edits
    candidates: int = Field(default=1, ge=1)  # tries a row, ranked by the editor
    keep: int = Field(default=1, ge=1)  # of them, the best, whose images are written
    metrics: tuple[MetricSpec, ...] = ()  # of each edited image; their scores become columns of the results
    quality: QualitySpec = QualitySpec()  # what happens to a row that scores badly
    # jpeg is lossy: the background is then not exact, and the row says so.
    image_format: Literal["png", "webp-lossless", "jpeg"] = "png"
    mask: MaskSpec = MaskSpec()  # how mask images are read
    # What the network sees of an image larger than itself: a crop around the mask, or the whole image resized; or, of
    # any image, its face turned upright as FFHQ has it (landmarks from the manifest, or the weights' face_detector).
    fit: Literal["auto", "crop", "resize", "face"] = "auto"
    # What of the edit reaches the file: what lies in the mask, or all that the network saw (the background is then not
    # exact, and the row says so): for baselines such as the paper's algorithm 1 without its paste.
    composite: Literal["mask", "region"] = "mask"
    sink: str = "files"  # a file an image, or tar: a shard a block
    # Where inversions are kept from one run to the next (a folder on any storage; nothing is deleted there): images
    # that are edited again, towards other targets, then cost the generation alone. Changes no pixel.
    latents: str | None = None
    # An earlier output, or a glob of them, whose answers are taken over where nothing that decides them has changed;
    # auto: where the output holds {date}, those of other dates; none: everything is edited.
    carry: str = "auto"
    drift: DriftSpec = DriftSpec()  # whether scores moved since earlier nights
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)  # share of rows that may fail; above it, exit code 1
    # Stops when all runs of the output together have cost this, in the price table's currency.
    max_cost: float | None = Field(default=None, gt=0)
    deadlines: DeadlineSpec = DeadlineSpec()  # how long work may take
    ray: RaySpec = RaySpec()  # how the work is spread

    @field_validator("metrics", mode="before", json_schema_input_type=tuple[str | MetricSpec, ...] | None)
    @classmethod
    def _short_metrics(cls, value: Any) -> Any:
        return _short(value)

    @model_validator(mode="after")
    def _keeps_no_more_than_it_makes(self) -> EditJob:
        if self.keep > self.candidates:
            raise ValueError(f"keep is {self.keep} but candidates is {self.candidates}: no more can be kept than made")
        return self

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifest's sources as a tuple."""
        return (self.manifest,) if isinstance(self.manifest, str) else self.manifest


class EvaluateJob(JobModel):
    """``kind: evaluate``: metrics over a finished set of images, and beside it over a set of real ones."""

    kind: Literal["evaluate"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # of the evaluation: letters, digits, dots, dashes
    # A run's output, whose table says which rows have an image; or a folder, glob or manifest of images.
    results: str
    # Real images likewise, or what an evaluation kept of them (reference/*.safetensors); one a metric where that is
    # such a file.
    reference: str | dict[str, str] | None = None
    # Sources, masks, exemplars and prompts for row_metrics, by key; the run's own where it is left out.
    manifest: str | tuple[str, ...] | None = None
    output: str  # folder on any fsspec URL, for metrics.json
    metrics: tuple[MetricSpec, ...] = ()  # of the set; without weights, the run's editor's
    row_metrics: tuple[MetricSpec, ...] = ()  # of each image at its native size
    # Rows with an image that count. Rejected rows are left out as a dataset would: add failed_quality to judge the
    # editor rather than what it delivered.
    statuses: tuple[Literal["success", "failed_quality", "filtered"], ...] = ("success",)
    mask: MaskSpec | None = None  # how the manifest's masks are read; as the run read them where it is left out
    shards: int = Field(default=8, ge=1)  # the unit of loss, and of work that goes side by side
    ray: TaskSpec = TaskSpec()  # what each shard's task takes of the cluster

    @field_validator(
        "metrics", "row_metrics", mode="before", json_schema_input_type=tuple[str | MetricSpec, ...] | None
    )
    @classmethod
    def _short_metrics(cls, value: Any) -> Any:
        return _short(value)

    @model_validator(mode="after")
    def _measures_something(self) -> EvaluateJob:
        if not self.metrics and not self.row_metrics:
            raise ValueError("nothing to measure: give metrics, row_metrics, or both")
        return self


def _short(metrics: Any) -> Any:
    """``fid`` is short for ``{name: fid}``; None for no metric."""
    if metrics is None or isinstance(metrics, list | tuple):
        return tuple({"name": entry} if isinstance(entry, str) else entry for entry in metrics or ())
    return metrics


Job = EditJob | FinetuneJob | TrainJob | EvaluateJob
KINDS: dict[str, type[EditJob] | type[FinetuneJob] | type[TrainJob] | type[EvaluateJob]] = {
    "edit": EditJob,
    "finetune": FinetuneJob,
    "train": TrainJob,
    "evaluate": EvaluateJob,
}


def load_job(uri: str, set_: Sequence[str] = (), date: str | None = None) -> Job:
    """Read a job file, with the environment's fields and then the command's over it; what the environment gave is said.

    Args:
        uri: YAML file on any fsspec URL.
        set_: ``a.b=value`` strings; the value is YAML (``--set editor.params.timesteps=25``).
        date: what ``{date}`` in an address stands for; else ``RETOUCH_DATE``, else today (UTC).

    Raises:
        ConfigError: one line that names the file and every wrong field.
    """
    try:
        data = yaml.safe_load(storage.read_bytes(uri))
    except ObjectMissing:
        raise ConfigError(f"no job file at {uri}; give the path of a YAML file such as jobs/quickstart.yaml") from None
    except StorageError as error:
        raise ConfigError(f"the job file cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{uri} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{uri} holds {type(data).__name__}, not a mapping of job fields")
    variables = overrides.environment()
    data = overrides.overridden(overrides.from_environment(data, variables), set_)
    job = parse_job(placeholders.filled(data, placeholders.the_date(date)), uri)
    if variables:
        said = redacted(", ".join(f"{name}={value}" for name, value in variables.items()))
        print(f"from the environment: {said}", file=sys.stderr)
    job._environment.update(variables)
    return job


def parse_job(data: dict[str, Any], origin: str) -> Job:
    """A checked job from plain data; ``origin`` names it in errors."""
    kind = data.get("kind", "edit")
    if not isinstance(kind, str) or kind not in KINDS:
        near = validation.nearest(str(kind), KINDS)
        raise ConfigError(f"{origin}: kind is {kind!r}; this version runs: {', '.join(KINDS)}{near}")
    model = KINDS[kind]
    try:
        job = model.model_validate(data)
    except ValidationError as error:
        said = validation.in_one_line(error, data, model.model_json_schema())
        raise ConfigError(f"{origin}: {said}") from None
    return job.model_copy(update={"output": job.output.rstrip("/")})
