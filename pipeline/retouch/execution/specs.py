"""Settings of the edit and write stages, as plain data that is sent to the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from retouch.jobs.config import MetricSpec, QualitySpec, Weights


@dataclass(frozen=True)
class EngineSpec:
    """What an engine loads and how it treats candidates."""

    editor: str
    params: Mapping[str, Any]
    weights: Weights  # as in the job file; made local where the engine runs
    metrics: Sequence[MetricSpec] = ()
    seed: int = 0
    candidates: int = 1
    keep: int = 1
    batch_size: int = 8
    fit: Literal["auto", "crop", "resize", "face"] = "auto"
    quality: QualitySpec = field(default_factory=QualitySpec)
    latents: str | None = None  # where an editor that inverts keeps what it computed; changes no pixel
    output: str | None = None  # where it is noted which rows are in hand; nowhere if None
    seconds: float | None = None  # deadline of one pass


@dataclass(frozen=True)
class WriteSpec:
    """Where answers go and in which form."""

    output: str
    schema: pa.Schema  # of the results table
    epoch: int  # of this run: a later run's answer to a key stands over an earlier one's
    image_format: str = "png"
    sink: str = "files"
    composite: Literal["mask", "region"] = "mask"
    seconds: float | None = None  # deadline of one block
