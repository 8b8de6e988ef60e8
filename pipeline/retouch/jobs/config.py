"""Job files, read and checked into frozen models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from retouch import storage, validation
from retouch.errors import ConfigError, ObjectMissing, StorageError
from retouch.jobs import overrides, placeholders
from retouch.jobs.base import AtLeastOne, ImagesSpec, JobWeights, MaskSpec, Model, Weights
from retouch.jobs.canvas import CanvasSpec
from retouch.jobs.training import FinetuneJob, TargetSpec, TaskSpec, TrainJob, WorkersSpec

__all__ = [
    "KINDS",
    "CanvasSpec",
    "DeadlineSpec",
    "EditJob",
    "EditorSpec",
    "EvaluateJob",
    "FinetuneJob",
    "ImagesSpec",
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
    """An editor with its weights and parameters."""

    name: str
    """An installed editor (``retouch plugins`` lists them), or package.module:Class."""
    weights: JobWeights
    """embedded:shapes, a path, s3://..., hf://repo/file; or a mapping from role to such an address, or to several that
    are tried in order."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Fields of the editor's Params."""


class MetricSpec(Model):
    """A metric by name; without ``weights`` it uses the editor's."""

    name: str
    """Name of the metric; a name in place of this mapping is short for it."""
    weights: JobWeights | None = None
    """As of the editor; default: the editor's."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the metric's load."""


class Threshold(Model):
    """Bounds of a score, both inclusive."""

    min: float | None = None
    """Smallest score; a number in place of this mapping is short for it."""
    max: float | None = None
    """Largest score, for distances."""


class QualitySpec(Model):
    """What happens to a row whose best candidate misses a threshold."""

    mode: Literal["score", "reject", "retry"] = "score"
    """score: only measured; reject: the row becomes failed_quality; retry: more seeds are tried first."""
    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    """By score column: clip_score, background_l1, ..."""
    rounds: int = Field(default=3, ge=1)
    """Mode retry: most rounds of ``candidates`` more seeds, until one candidate keeps the thresholds. After raising it,
    the same command tries only the rows that missed them."""

    @field_validator("thresholds", mode="before", json_schema_input_type=dict[str, float | Threshold])
    @classmethod
    def _expand_thresholds(cls, value: Any) -> Any:
        """``clip_score: 25`` is short for ``clip_score: {min: 25}``."""
        if not isinstance(value, dict):
            return value
        return {k: {"min": v} if isinstance(v, int | float) else v for k, v in value.items()}


class RaySpec(Model):
    """How the work is distributed. Only ``batch_size`` affects pixels: it stays the same for all runs of an output."""

    actors: AtLeastOne | Literal["auto"] = "auto"
    """Workers with a copy of the networks; auto: one per GPU, or one per CPU core if there is no GPU."""
    gpus_per_actor: float | Literal["auto"] = "auto"
    """GPUs per actor; auto: one, or none if there is no GPU; 0.5 puts two actors on a GPU with memory for both."""
    batch_size: int = Field(default=8, ge=1)
    """Rows x candidates per forward pass; smaller passes are padded to it."""
    rows_per_block: AtLeastOne | Literal["auto"] = "auto"
    """Rows that are committed together, and redone together when a worker dies."""
    stall_seconds: int = Field(default=3600, ge=1)
    """Longest wait for a GPU, model loading and one block together; the time in which weights are fetched does not
    count."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources per actor."""


class DriftSpec(Model):
    """When the scores of this run count as different from those of earlier runs."""

    nights: int = Field(default=7, ge=1)
    """Number of earlier runs, or of earlier calls on this output, to compare with."""
    distance: float = Field(default=0.2, gt=0, le=1)
    """Smallest Kolmogorov-Smirnov distance of two score distributions that counts as drift."""
    p_value: float = Field(default=0.01, gt=0, lt=1)
    """It counts only if such a distance would arise by chance less often than this."""
    fail: bool = False
    """Exit with 1 if scores drifted."""


class DeadlineSpec(Model):
    """Time limits of work. Rows that exceed one are tried again alone, and then fail with ``DeadlineExceeded``."""

    decode: float = Field(default=300.0, gt=0)
    """Seconds to fetch and decode the files of one row."""
    edit: float = Field(default=1800.0, gt=0)
    """Seconds for one pass of batch_size entries, metrics included; on a canvas, for all passes of such entries."""
    write: float = Field(default=900.0, gt=0)
    """Seconds to write the images and results of one block."""


class EditJob(Model):
    """``kind: edit``: edit every row of a manifest with one editor."""

    kind: Literal["edit"] = "edit"
    """Kind of the job."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, its submissions and its metrics: letters, digits, dots, dashes."""
    manifest: str | tuple[str, ...]
    """Parquet file, folder or glob, or several, on any fsspec URL. Folders called name=value give columns; names that
    begin with . or _ are left out."""
    output: str
    """Folder on any fsspec URL; {date}, {name} and {env:VARIABLE} are filled in."""
    seed: int = Field(default=0, ge=0)
    """Seed of all noise, together with each row's key."""
    editor: EditorSpec
    """Editor, weights and parameters."""
    candidates: int = Field(default=1, ge=1)
    """Attempts per row with different seeds, ranked by the editor."""
    keep: int = Field(default=1, ge=1)
    """Number of best candidates whose images are written."""
    metrics: tuple[MetricSpec, ...] = ()
    """Metrics of each edited image; their scores become columns of the results."""
    quality: QualitySpec = QualitySpec()
    """What happens to a row that scores badly."""
    image_format: Literal["png", "webp-lossless", "jpeg"] = "png"
    """jpeg is lossy: the background is then not exact, which the row records."""
    images: ImagesSpec = ImagesSpec()
    """Which image files are decoded, and which are too large."""
    mask: MaskSpec = MaskSpec()
    """How mask images are read."""
    fit: Literal["auto", "crop", "resize", "face"] = "auto"
    """What the network sees of an image larger than its input: a crop around the mask, or the whole image resized; or,
    of any image, its face aligned as in FFHQ (landmarks from the manifest, or the weights' face_detector)."""
    composite: Literal["mask", "region"] = "mask"
    """What of the edit reaches the file: what lies in the mask, or all that the network saw (the background is then not
    exact, which the row records): for baselines such as the paper's algorithm 1 without its paste."""
    output_size: Literal["native", "network"] = "native"
    """Size of the image files of rows that are edited whole, having neither mask nor box: the source's, to which the
    network's image is scaled, or the network's own. All other rows keep the source's size, since what was not edited
    is exact only there."""
    align: bool = False
    """Move an edit back that the model has shifted against its source, as measured outside the mask (metric
    shift_px), before it is put into the source. Shifts of under half a pixel of the network stay."""
    canvas: CanvasSpec | None = None
    """Paint beyond the borders: how far each image grows. Rows have no mask then, and the image itself stays as it is,
    bit for bit."""
    sink: str = "files"
    """files: one file per image; tar: one shard per block."""
    latents: str | None = None
    """Folder on any storage that keeps inversions between runs (nothing is deleted there): editing an image again for
    another target then costs only the generation. Does not affect pixels."""
    carry: str = "auto"
    """Earlier output, or a glob of them, whose results are reused for rows that did not change; auto: if the output
    holds {date}, the outputs of other dates; none: edit everything."""
    drift: DriftSpec = DriftSpec()
    """Whether scores moved since earlier runs."""
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    """Share of rows that may fail; above it, the exit code is 1."""
    max_cost: float | None = Field(default=None, gt=0)
    """Stop when all runs of the output together have cost this much, in the price table's currency."""
    deadlines: DeadlineSpec = DeadlineSpec()
    """Time limits."""
    ray: RaySpec = RaySpec()
    """How the work is distributed."""

    @field_validator("metrics", mode="before", json_schema_input_type=tuple[str | MetricSpec, ...] | None)
    @classmethod
    def _expand_metrics(cls, value: Any) -> Any:
        return _expand_names(value)

    @model_validator(mode="after")
    def _check_keep(self) -> EditJob:
        if self.keep > self.candidates:
            raise ValueError(f"keep is {self.keep} but candidates is {self.candidates}: no more can be kept than made")
        return self

    @model_validator(mode="after")
    def _check_canvas(self) -> EditJob:
        if self.canvas is not None and self.fit == "face":
            raise ValueError("fit: face shows the network a face, and canvas paints around the image; take fit: auto")
        if self.canvas is not None and self.composite == "region":
            raise ValueError("composite: region changes the image itself, which a canvas keeps; take composite: mask")
        if self.canvas is not None and self.mask.grow:
            raise ValueError("mask.grow widens masks, and rows on a canvas have none; leave it out")
        return self

    @model_validator(mode="after")
    def _check_output_size(self) -> EditJob:
        if self.output_size == "network" and self.fit == "face":
            raise ValueError("output_size: network is for whole images, and fit: face edits a part; take fit: resize")
        if self.output_size == "network" and self.canvas is not None:
            raise ValueError("output_size: network is for whole images, and a canvas keeps the image; leave one out")
        return self

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifest's sources as a tuple."""
        return (self.manifest,) if isinstance(self.manifest, str) else self.manifest


class EvaluateJob(Model):
    """``kind: evaluate``: measure a finished set of images, optionally against a set of real ones."""

    kind: Literal["evaluate"]
    """Kind of the job."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the evaluation: letters, digits, dots, dashes."""
    results: str
    """Output of a run, whose results table lists the rows with an image; or a folder, glob or manifest of images."""
    reference: str | dict[str, str] | None = None
    """Real images in the same forms, or the statistics that an evaluation kept of them (reference/*.safetensors), one
    file per metric."""
    manifest: str | tuple[str, ...] | None = None
    """Sources, masks, exemplars and prompts for row_metrics, by key; default: the run's own."""
    output: str
    """Folder for metrics.json, on any fsspec URL."""
    metrics: tuple[MetricSpec, ...] = ()
    """Metrics of the set; default weights: the run's editor's."""
    row_metrics: tuple[MetricSpec, ...] = ()
    """Metrics of each image at its native size."""
    statuses: tuple[Literal["success", "failed_quality", "filtered"], ...] = ("success",)
    """Rows with an image that count. Rejected rows are left out as a dataset would: add failed_quality to judge the
    editor rather than what it delivered."""
    mask: MaskSpec | None = None
    """How the manifest's masks are read; default: as in the run."""
    shards: int = Field(default=8, ge=1)
    """Number of parts of the set; a part is one task, and is measured again when that task fails."""
    ray: TaskSpec = TaskSpec()
    """What the task of each shard takes of the cluster."""

    @field_validator(
        "metrics", "row_metrics", mode="before", json_schema_input_type=tuple[str | MetricSpec, ...] | None
    )
    @classmethod
    def _expand_metrics(cls, value: Any) -> Any:
        return _expand_names(value)

    @model_validator(mode="after")
    def _check_metrics(self) -> EvaluateJob:
        if not self.metrics and not self.row_metrics:
            raise ValueError("nothing to measure: give metrics, row_metrics, or both")
        return self


def _expand_names(metrics: Any) -> Any:
    """Expand each name: ``fid`` is short for ``{name: fid}``, and None for no metric."""
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
    """Read a job file, apply overrides, and fill in the placeholders of its addresses.

    Args:
        uri: YAML file on any fsspec URL.
        set_: ``a.b=value`` strings; the value is YAML (``--set editor.params.timesteps=25``).
        date: value of ``{date}`` in an address; default: ``RETOUCH_DATE``, else today (UTC).

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
    data = overrides.apply_overrides(data, set_)
    return parse_job(placeholders.fill_placeholders(data, placeholders.resolve_date(date)), uri)


def parse_job(data: dict[str, Any], origin: str) -> Job:
    """Return the checked job of plain data; ``origin`` names it in errors.

    Raises:
        ConfigError: one line that names every wrong field.
    """
    kind = data.get("kind", "edit")
    if not isinstance(kind, str) or kind not in KINDS:
        near = validation.nearest(str(kind), KINDS)
        raise ConfigError(f"{origin}: kind is {kind!r}; this version runs: {', '.join(KINDS)}{near}")
    model = KINDS[kind]
    try:
        job = model.model_validate(data)
    except ValidationError as error:
        problems = validation.in_one_line(error, data, model.model_json_schema())
        raise ConfigError(f"{origin}: {problems}") from None
    return job.model_copy(update={"output": job.output.rstrip("/")})
