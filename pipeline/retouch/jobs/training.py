"""Kinds of jobs that make weights: ``finetune`` and ``train``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from retouch.jobs.base import AtLeastOne, JobWeights, MaskSpec, Model


class TargetSpec(Model):
    """One domain that a network is fine-tuned to; without texts each row brings ``source_prompt`` and ``prompt``."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the finished file."""
    domain: str | None = None
    """A pair of texts from the built-in dictionary."""
    source_prompt: str | None = None
    """What the images show."""
    prompt: str | None = None
    """What they become."""
    manifest: str | tuple[str, ...] | None = None
    """Images of this target, in place of the job's."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Fields that override the job's ``params``."""

    @model_validator(mode="after")
    def _check_texts(self) -> TargetSpec:
        if (self.source_prompt is None) != (self.prompt is None):
            raise ValueError(f"target {self.name} has one text of two: give source_prompt and prompt")
        if self.domain is not None and self.prompt is not None:
            raise ValueError(f"target {self.name} has a domain and texts: give one of them")
        return self


class TaskSpec(Model):
    """What one task takes of the cluster."""

    gpus_per_task: float | Literal["auto"] = "auto"
    """GPUs per task; auto: one, or none if the cluster has none."""
    cpus_per_task: float = Field(default=1.0, gt=0)
    """CPU cores per task where there is no GPU; training uses one thread."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources per task."""


class FinetuneJob(Model):
    """``kind: finetune``: fine-tune a diffusion network to one or more domains, one file per domain (DiffusionCLIP)."""

    kind: Literal["finetune"]
    """Kind of the job."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the training: letters, digits, dots, dashes."""
    manifest: str | tuple[str, ...] | None = None
    """Images to learn from; a target may name its own."""
    output: str
    """Folder for the networks, on any fsspec URL."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the training."""
    weights: JobWeights
    """Roles ``unet`` and ``clip``, and ``arcface`` where the identity loss has weight."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Fields of FinetuneParams."""
    targets: tuple[TargetSpec, ...] = Field(min_length=1)
    """Domains, one network each."""
    fit: Literal["auto", "crop", "resize", "face"] = "auto"
    """What the network sees of an image, as in an edit job."""
    mask: MaskSpec = MaskSpec()
    """How mask images are read."""
    ray: TaskSpec = TaskSpec()
    """What the task of each target takes of the cluster."""

    @model_validator(mode="after")
    def _check_targets(self) -> FinetuneJob:
        names = [target.name for target in self.targets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"targets named twice: {', '.join(twice)}")
        if without := [t.name for t in self.targets if t.manifest is None and self.manifest is None]:
            raise ValueError(f"no manifest for {', '.join(without)}: give the job one, or each target its own")
        return self


class WorkersSpec(Model):
    """What a training takes of the cluster. More workers see more images per update; nothing else changes."""

    workers: AtLeastOne | Literal["auto"] = "auto"
    """Training workers; auto: one per GPU, or one if there is none."""
    gpus_per_worker: float | Literal["auto"] = "auto"
    """GPUs per worker; auto: one, or none if the cluster has none."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    """CPU cores per worker, and threads that prepare samples; a large GPU needs 8 or more."""
    max_failures: int = Field(default=5, ge=0)
    """Restarts after a worker died; each resumes from the last checkpoint. Preempted nodes do not count."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom Ray resources per worker."""


class TrainJob(Model):
    """``kind: train``: train an exemplar UNet on images with boxes (Paint by Example)."""

    kind: Literal["train"]
    """Kind of the job."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the training: letters, digits, dots, dashes."""
    manifest: str | tuple[str, ...]
    """Table with the columns ``image`` and ``boxes``."""
    output: str
    """Folder for checkpoints and networks, on any fsspec URL."""
    seed: int = Field(default=0, ge=0)
    """Seed of everything random in the training."""
    weights: JobWeights
    """Initial weights: Paint by Example's, or Stable Diffusion's with CLIP's as ``vision``."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Fields of TrainParams."""
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    """Share of the rows seen so far that may be unreadable; above it, the training stops."""
    ray: WorkersSpec = WorkersSpec()
    """How many workers, and what each takes of the cluster."""

    @property
    def manifests(self) -> tuple[str, ...]:
        """The manifest's sources as a tuple."""
        return (self.manifest,) if isinstance(self.manifest, str) else self.manifest
