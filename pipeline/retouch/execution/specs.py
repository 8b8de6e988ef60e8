"""Settings of the edit and write stages, as plain data that is sent to the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from retouch.jobs.canvas import CanvasSpec
from retouch.jobs.config import MetricSpec, QualitySpec, Weights


@dataclass(frozen=True)
class EngineSpec:
    """What an engine loads and how it treats candidates."""

    editor: str
    params: Mapping[str, Any]
    weights: Weights  # as in the job file; fetched where the engine runs
    metrics: Sequence[MetricSpec] = ()
    seed: int = 0
    candidates: int = 1
    keep: int = 1
    batch_size: int = 8
    fit: Literal["auto", "crop", "resize", "face"] = "auto"
    context: float = 0.5  # of ``regions.fit_region``
    feather: int = 0  # pixels of the source over which an edit fades in
    output_size: Literal["native", "network"] = "native"  # of rows that are edited whole
    align: bool = False  # move edits back that the model has shifted
    canvas: CanvasSpec | None = None  # prompts and passes of new borders, which the decode stage adds
    quality: QualitySpec = field(default_factory=QualitySpec)
    latents: str | None = None  # folder of the cache of inverted images; changes no pixel
    output: str | None = None  # folder of the run, for markers of rows in flight; no markers if None
    seconds: float | None = None  # timeout of one forward pass


@dataclass(frozen=True)
class WriteSpec:
    """Where results are written, and in which form."""

    output: str
    schema: pa.Schema  # of the results table
    epoch: int  # of this run: for each key the result of the latest epoch counts
    image_format: str = "png"
    sink: str = "files"
    composite: Literal["mask", "region"] = "mask"
    seconds: float | None = None  # timeout of one block
