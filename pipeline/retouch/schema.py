"""Data types that flow through the pipeline: batches, edit results, and the columns of manifests and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retouch.errors import RowError

Pixels = npt.NDArray[np.uint8]  # [H, W, 3], or [B, H, W, 3] in a batch; 0..255, RGB
Mask = npt.NDArray[np.bool_]  # [H, W], or [B, H, W] in a batch; True = edit

# Manifest columns that have a meaning; every other column belongs to the caller and is copied to the results.
REQUEST_COLUMNS: Final = (
    "key",
    "image",
    "mask",
    "bbox",
    "landmarks",
    "prompt",
    "negative_prompt",
    "exemplar",
    "control",
    "source_prompt",
    "checkpoint",
    "seed",
    "params",
)

SUCCESS: Final = "success"
FAILED_TO_LOAD: Final = "failed_to_load"
FAILED_TO_EDIT: Final = "failed_to_edit"
FAILED_QUALITY: Final = "failed_quality"
FILTERED: Final = "filtered"
STATUSES: Final = (SUCCESS, FAILED_TO_LOAD, FAILED_TO_EDIT, FAILED_QUALITY, FILTERED)
FAILURES: Final = (FAILED_TO_LOAD, FAILED_TO_EDIT, FAILED_QUALITY)

# A kept candidate other than the best one.
RUNNER_UP: Final = pa.struct(
    [("output", pa.string()), ("sha256", pa.string()), ("candidate", pa.int32()), ("seed", pa.int64())]
)

# One row of results/*.parquet; columns of metrics and of the caller follow (``results_schema``).
RESULT_FIELDS: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("error_stage", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("output", pa.string()),  # relative to the output folder; absolute if carried over from another run
        pa.field("seed", pa.int64()),  # of the best candidate
        pa.field("candidate", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),  # of the output file's bytes
        pa.field("background_changed_px", pa.int64()),
        pa.field("edit_seconds", pa.float64()),
        pa.field("runners_up", pa.list_(RUNNER_UP)),  # best first
        pa.field("converted_from", pa.string()),  # colours of a source that was converted to sRGB; null: as stored
        pa.field("carried_from", pa.string()),  # output of the earlier run that made this result; null: this run
    ]
)


def results_schema(metrics: Mapping[str, pa.DataType], caller: pa.Schema) -> pa.Schema:
    """Return the schema of one results file.

    Args:
        metrics: columns of the job's metrics: name to Arrow type.
        caller: schema of the manifest columns that are copied to the results.
    """
    return pa.schema([*RESULT_FIELDS, *(pa.field(name, kind) for name, kind in metrics.items()), *caller])


@dataclass(frozen=True)
class Batch:
    """Input of an editor: B entries (rows x candidates) at one network size.

    Entries share only the shape, ``checkpoint`` and ``params``; the result of entry i may depend on entry i only.
    """

    image: Pixels  # [B, H, W, 3] uint8
    mask: Mask  # [B, H, W] bool, True = edit
    prompt: Sequence[str]  # "" if the manifest has none
    seed: Sequence[int]  # one per entry, 0..2**63-1
    exemplar: Pixels | None = None  # [B, h, w, 3] uint8, at the editor's exemplar size, else H x W
    control: Pixels | None = None  # [B, H, W, 3] uint8, the same part of the control image as of the image
    negative_prompt: Sequence[str] | None = None  # "" for an entry without one; None if no entry has one
    source_prompt: Sequence[str] | None = None
    checkpoint: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)  # overrides of the editor's Params, the same for all B

    def __len__(self) -> int:
        return len(self.seed)


@dataclass(frozen=True)
class EditResult:
    """One edited entry at the network's size.

    ``metrics`` holds the editor's own measurements, such as its ranking distance; those listed in the editor's
    ``columns`` become result columns. If ``error`` is set, the entry has failed and ``image`` is ignored; other
    entries of the batch are not affected.
    """

    image: Pixels  # [H, W, 3] uint8
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: RowError | None = None
