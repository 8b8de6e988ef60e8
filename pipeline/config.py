"""Job files to frozen models; an unknown key is an error. Knows what a job may say, not what an editor makes of it."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from pipeline import storage
from pipeline.errors import ConfigError, ObjectMissing, StorageError
from pipeline.training_jobs import FinetuneJob, MaskSpec, Model, TargetSpec, TaskSpec, TrainJob, WorkersSpec

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
    "WorkersSpec",
    "load_job",
    "overridden",
    "parse_job",
]


class EditorSpec(Model):
    """Which editor, on which weights."""

    name: str
    weights: str | dict[str, str]  # embedded:shapes, a path, s3://..., hf://repo/file, or one of these a role
    params: dict[str, Any] = Field(default_factory=dict)  # fields of the editor's Params


class MetricSpec(Model):
    """A metric by name; without ``weights`` it uses the editor's."""

    name: str
    weights: str | dict[str, str] | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class Threshold(Model):
    """Bounds that a score must keep, both inclusive."""

    min: float | None = None
    max: float | None = None


class QualitySpec(Model):
    """What happens to a row whose best candidate misses a threshold."""

    mode: Literal["score", "reject", "retry"] = "score"
    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    rounds: int = Field(default=3, ge=1)  # retry: rounds of ``candidates`` more seeds, at most


class RaySpec(Model):
    """How the work is spread; nothing here changes a pixel but ``batch_size``, which therefore is a run's for good."""

    actors: int | Literal["auto"] = "auto"  # auto: one a GPU, or one a CPU core where there are no GPUs
    gpus_per_actor: float | Literal["auto"] = "auto"
    batch_size: int = Field(default=8, ge=1)  # rows x candidates in one pass; passes are padded to it
    rows_per_block: int | Literal["auto"] = "auto"  # the unit of loss, retry and commit
    stall_seconds: int = Field(default=3600, ge=1)  # longest wait for a GPU + model load + one block
    resources: dict[str, float] = Field(default_factory=dict)  # custom Ray resources that an actor takes

    @field_validator("actors", "rows_per_block")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value


class DeadlineSpec(Model):
    """How long work may take before its rows are tried alone, and in the end answered with ``DeadlineExceeded``."""

    decode: float = Field(default=300.0, gt=0)  # seconds for one row's files to be fetched and decoded
    edit: float = Field(default=1800.0, gt=0)  # for one pass of batch_size entries, metrics included
    write: float = Field(default=900.0, gt=0)  # for one block's images and results


class EditJob(Model):
    """``kind: edit``: every row of a manifest through one editor."""

    kind: Literal["edit"] = "edit"
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    manifest: str | tuple[str, ...]
    output: str
    seed: int = Field(default=0, ge=0)
    editor: EditorSpec
    candidates: int = Field(default=1, ge=1)
    keep: int = Field(default=1, ge=1)
    metrics: tuple[MetricSpec, ...] = ()
    quality: QualitySpec = QualitySpec()
    image_format: Literal["png", "webp-lossless", "jpeg"] = "png"
    mask: MaskSpec = MaskSpec()
    # What the network sees of an image larger than itself: a crop around the mask, or the whole image resized; or, of
    # any image, its face turned upright as FFHQ has it (landmarks from the manifest, or the weights' face_detector).
    fit: Literal["auto", "crop", "resize", "face"] = "auto"
    # What of the edit reaches the file: what lies in the mask, or all that the network saw (the background is then not
    # exact, and the row says so): for baselines such as the paper's algorithm 1 without its paste.
    composite: Literal["mask", "region"] = "mask"
    sink: str = "files"
    # Where inversions are kept from one run to the next (a folder on any storage; nothing is deleted there): images
    # that are edited again, towards other targets, then cost the generation alone. Changes no pixel.
    latents: str | None = None
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    # Stops when all runs of the output together have cost this, in the price table's currency.
    max_cost: float | None = Field(default=None, gt=0)
    deadlines: DeadlineSpec = DeadlineSpec()
    ray: RaySpec = RaySpec()

    @field_validator("metrics", mode="before")
    @classmethod
    def _short_metrics(cls, value: Any) -> Any:
        return tuple({"name": entry} if isinstance(entry, str) else entry for entry in value or ())

    @field_validator("quality", mode="before")
    @classmethod
    def _short_thresholds(cls, value: Any) -> Any:
        """``clip_score: 25`` is short for ``clip_score: {min: 25}``."""
        if not isinstance(value, dict) or not isinstance(value.get("thresholds"), dict):
            return value
        spelled = {k: {"min": v} if isinstance(v, int | float) else v for k, v in value["thresholds"].items()}
        return {**value, "thresholds": spelled}

    @model_validator(mode="after")
    def _keeps_no_more_than_it_makes(self) -> EditJob:
        if self.keep > self.candidates:
            raise ValueError(f"keep is {self.keep} but candidates is {self.candidates}: no more can be kept than made")
        return self

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifest's sources as a tuple."""
        return (self.manifest,) if isinstance(self.manifest, str) else self.manifest


class EvaluateJob(Model):
    """``kind: evaluate``: metrics over a finished set of images, and beside it over a set of real ones."""

    kind: Literal["evaluate"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    # A run's output, whose table says which rows have an image; or a folder, glob or manifest of images.
    results: str
    # Real images likewise, or what an evaluation kept of them (reference/*.safetensors); one a metric where that is
    # such a file.
    reference: str | dict[str, str] | None = None
    # Sources, masks, exemplars and prompts for row_metrics, by key; the run's own where it is left out.
    manifest: str | tuple[str, ...] | None = None
    output: str
    metrics: tuple[MetricSpec, ...] = ()  # of the set; without weights, the run's editor's
    row_metrics: tuple[MetricSpec, ...] = ()  # of each image at its native size
    # Rows with an image that count. Rejected rows are left out as a dataset would: add failed_quality to judge the
    # editor rather than what it delivered.
    statuses: tuple[Literal["success", "failed_quality", "filtered"], ...] = ("success",)
    mask: MaskSpec | None = None  # how the manifest's masks are read; as the run read them where it is left out
    shards: int = Field(default=8, ge=1)  # the unit of loss, and of work that goes side by side
    ray: TaskSpec = TaskSpec()

    @field_validator("metrics", "row_metrics", mode="before")
    @classmethod
    def _short_metrics(cls, value: Any) -> Any:
        return tuple({"name": entry} if isinstance(entry, str) else entry for entry in value or ())

    @model_validator(mode="after")
    def _measures_something(self) -> EvaluateJob:
        if not self.metrics and not self.row_metrics:
            raise ValueError("nothing to measure: give metrics, row_metrics, or both")
        return self


Job = EditJob | FinetuneJob | TrainJob | EvaluateJob
KINDS: dict[str, type[EditJob] | type[FinetuneJob] | type[TrainJob] | type[EvaluateJob]] = {
    "edit": EditJob,
    "finetune": FinetuneJob,
    "train": TrainJob,
    "evaluate": EvaluateJob,
}


def load_job(uri: str, overrides: Sequence[str] = ()) -> Job:
    """Read a job file.

    Args:
        uri: YAML file on any fsspec URL.
        overrides: ``a.b=value`` strings; the value is YAML (``--set editor.params.timesteps=25``).

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
    return parse_job(overridden(data, overrides), uri)


def overridden(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Plain job data with ``a.b=value`` strings over it.

    Raises:
        ConfigError: one is not of that form, or names no place.
    """
    changed = copy.deepcopy(dict(data))
    for override in overrides:
        _set(changed, override)
    return changed


def parse_job(data: dict[str, Any], origin: str) -> Job:
    """A checked job from plain data; ``origin`` names it in errors. ``{date}`` in ``output`` becomes today (UTC)."""
    kind = data.get("kind", "edit")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{origin}: kind is {kind!r}; this version runs: {', '.join(KINDS)}")
    try:
        job = KINDS[kind].model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_in_one_line(error)}") from None
    today = dt.datetime.now(dt.UTC).date().isoformat()
    return job.model_copy(update={"output": job.output.replace("{date}", today).rstrip("/")})


def _set(data: dict[str, Any], override: str) -> None:
    path, sep, text = override.partition("=")
    keys = path.strip().split(".")
    if not sep or not all(keys):
        raise ConfigError(f"--set {override!r} is not of the form a.b=value")
    node: Any = data
    for key in keys[:-1]:
        node = _inside(node, key, override)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(node, list):
        _inside(node, keys[-1], override, anything=True)
        node[int(keys[-1])] = value
    else:
        node[keys[-1]] = value


def _inside(node: Any, key: str, override: str, anything: bool = False) -> Any:
    """What a key of a mapping or a number of a list holds: something to go on in, unless ``anything`` will do."""
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise ConfigError(f"--set {override!r}: {key!r} is no entry of a list of {len(node)}; the first is 0")
        found = node[int(key)]
    else:
        found = node.setdefault(key, {})
    if not anything and not isinstance(found, dict | list):
        raise ConfigError(f"--set {override!r}: {key!r} holds a value, not a mapping")
    return found


def _in_one_line(error: ValidationError) -> str:
    def line(problem: Any) -> str:
        where = ".".join(str(part) for part in problem["loc"]) or "job"
        if problem["type"] == "extra_forbidden":
            return f"{where}: unknown key"
        return f"{where}: {problem['msg'].removeprefix('Value error, ')}"

    return "; ".join(line(problem) for problem in error.errors())
