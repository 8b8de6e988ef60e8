"""Job kinds that make weights, and what every kind is made of. Knows what a job may say, not how anything learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

AtLeastOne = Annotated[int, Field(ge=1)]
JobWeights = str | dict[str, str | tuple[str, ...]]
Weights = str | Mapping[str, str | Sequence[str]]  # an address, or by role an address or several, tried in order


class Model(BaseModel):
    """Frozen, and closed: a key that nobody reads is a mistake the user wants to hear of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobModel(Model):
    """What all kinds of jobs have beside their fields."""

    # Variables that set fields: no field itself, since what they set is in the job.
    _environment: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of the environment that set fields of this job."""
        return self._environment


class MaskSpec(Model):
    """How a mask image is read; white (True) is what is edited."""

    source: Literal["auto", "luma", "alpha"] = "auto"  # which plane decides; auto: alpha where it varies, else luma
    invert: bool = False  # edit what is black instead
    # Smallest value that is edited. Half, since "any non-zero pixel", as the original has it, grows a JPEG q75 mask by
    # 4.6 %.
    threshold: int = Field(default=128, ge=1, le=255)


class TargetSpec(Model):
    """One domain that a network is brought to; without texts each row brings its ``source_prompt`` and ``prompt``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # of the finished file
    domain: str | None = None  # a pair of the text dictionary
    source_prompt: str | None = None  # what the images show
    prompt: str | None = None  # what they become
    manifest: str | tuple[str, ...] | None = None  # in place of the job's
    params: dict[str, Any] = Field(default_factory=dict)  # over the job's

    @model_validator(mode="after")
    def _has_one_pair_of_texts(self) -> TargetSpec:
        if (self.source_prompt is None) != (self.prompt is None):
            raise ValueError(f"target {self.name} has one text of two: give source_prompt and prompt")
        if self.domain is not None and self.prompt is not None:
            raise ValueError(f"target {self.name} has a domain and texts: give one of them")
        return self


class TaskSpec(Model):
    """What each target's task takes of the cluster."""

    gpus_per_task: float | Literal["auto"] = "auto"  # auto: one, or none where the cluster has none
    cpus_per_task: float = Field(default=1.0, gt=0)  # where there is no GPU; one thread trains
    resources: dict[str, float] = Field(default_factory=dict)  # custom Ray resources that a task takes


class FinetuneJob(JobModel):
    """``kind: finetune``: a diffusion network to one or many domains, each a file of its own (DiffusionCLIP)."""

    kind: Literal["finetune"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # of the training: letters, digits, dots, dashes
    manifest: str | tuple[str, ...] | None = None  # images to learn from; a target may name its own
    output: str  # folder on any fsspec URL, for the networks
    seed: int = Field(default=0, ge=0)  # of all that is random in the training
    weights: JobWeights  # roles unet and clip, arcface where identity has weight
    params: dict[str, Any] = Field(default_factory=dict)  # fields of FinetuneParams
    targets: tuple[TargetSpec, ...] = Field(min_length=1)  # a network each
    fit: Literal["auto", "crop", "resize", "face"] = "auto"  # what the network sees of an image, as in an edit job
    mask: MaskSpec = MaskSpec()  # how mask images are read
    ray: TaskSpec = TaskSpec()  # what each target's task takes of the cluster

    @model_validator(mode="after")
    def _targets_can_be_told_apart(self) -> FinetuneJob:
        names = [target.name for target in self.targets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"targets named twice: {', '.join(twice)}")
        if without := [t.name for t in self.targets if t.manifest is None and self.manifest is None]:
            raise ValueError(f"no manifest for {', '.join(without)}: give the job one, or each target its own")
        return self


class WorkersSpec(Model):
    """What a training takes of the cluster. Their number changes the images an update sees, and nothing else."""

    workers: AtLeastOne | Literal["auto"] = "auto"  # auto: one a GPU, or one where there is none
    gpus_per_worker: float | Literal["auto"] = "auto"  # auto: one, or none where the cluster has none
    cpus_per_worker: float = Field(default=1.0, gt=0)  # as many threads make samples; a large GPU wants 8 and more
    # Starts again after a worker died by itself; each goes on from the last checkpoint. Nodes that a cloud takes back
    # do not count.
    max_failures: int = Field(default=5, ge=0)
    resources: dict[str, float] = Field(default_factory=dict)  # custom Ray resources that a worker takes


class TrainJob(JobModel):
    """``kind: train``: an exemplar UNet from images with boxes (Paint by Example)."""

    kind: Literal["train"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # of the training: letters, digits, dots, dashes
    manifest: str | tuple[str, ...]  # columns image and boxes
    output: str  # folder on any fsspec URL, for checkpoints and networks
    seed: int = Field(default=0, ge=0)  # of all that is random in the training
    weights: JobWeights  # where it starts: Paint by Example's, or Stable Diffusion's with CLIP's as vision
    params: dict[str, Any] = Field(default_factory=dict)  # fields of TrainParams
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)  # of rows seen that cannot be read; above it, it stops
    ray: WorkersSpec = WorkersSpec()  # how many workers, and what each takes of the cluster

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifest's sources as a tuple."""
        return (self.manifest,) if isinstance(self.manifest, str) else self.manifest
