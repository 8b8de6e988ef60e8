"""The shapes that flow: manifest row, sample, batch, result. Knows neither files, Ray nor torch."""

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

# The manifest's columns with a meaning; every other column is the caller's and is passed through to the results.
REQUEST_COLUMNS: Final = (
    "key",
    "image",
    "mask",
    "bbox",
    "landmarks",
    "prompt",
    "exemplar",
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

# A candidate beyond the best one, where the job keeps several.
RUNNER_UP: Final = pa.struct(
    [("output", pa.string()), ("sha256", pa.string()), ("candidate", pa.int32()), ("seed", pa.int64())]
)

# One row of results/*.parquet; a typed column a metric and the caller's columns follow (``results_schema``).
RESULT_FIELDS: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("error_stage", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("output", pa.string()),  # relative to the output folder; whole in a row taken over from another run
        pa.field("seed", pa.int64()),  # of the candidate that was kept
        pa.field("candidate", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),  # of the output file's bytes
        pa.field("background_changed_px", pa.int64()),
        pa.field("edit_seconds", pa.float64()),
        pa.field("runners_up", pa.list_(RUNNER_UP)),  # best first
        pa.field("carried_from", pa.string()),  # output of the earlier run that gave this answer; null: this one
    ]
)


def results_schema(metrics: Mapping[str, pa.DataType], caller: pa.Schema) -> pa.Schema:
    """Schema of one results file.

    Args:
        metrics: column name to Arrow type, of the job's metrics.
        caller: the manifest's columns that are passed through, with their types.
    """
    return pa.schema([*RESULT_FIELDS, *(pa.field(name, kind) for name, kind in metrics.items()), *caller])


@dataclass(frozen=True)
class Batch:
    """What an editor gets: B entries (rows x candidates) at the network's size.

    Entries share nothing but the shape, ``checkpoint`` and ``params``; entry i's result may depend on entry i alone.
    """

    image: Pixels  # [B, H, W, 3] uint8
    mask: Mask  # [B, H, W] bool, True = edit
    prompt: Sequence[str]  # "" where the manifest has none
    seed: Sequence[int]  # one a candidate, in 0..2**63-1
    exemplar: Pixels | None = None  # [B, h, w, 3] uint8, at the size that the editor asks for, else H x W
    source_prompt: Sequence[str] | None = None
    checkpoint: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)  # overrides of the editor's Params, the same for all B

    def __len__(self) -> int:
        return len(self.seed)


@dataclass(frozen=True)
class EditResult:
    """One edited entry at the network's size.

    ``metrics`` holds what the editor itself measured (its ranking distance, say); names become result columns only
    when the editor lists them in ``columns``. ``error`` says why the entry has no edit that may be shown, whatever
    ``image`` holds; its batch mates are not concerned.
    """

    image: Pixels  # [H, W, 3] uint8
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: RowError | None = None
