"""A row on its way: what decode makes of it, what the engine answers. Knows neither files, Ray nor torch."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from retouch import errors
from retouch.errors import DeadlineExceeded, EditError, LoadError, RetouchError, RowError, WorkerLost
from retouch.outputs.in_flight import Loss
from retouch.redaction import redacted
from retouch.schema import FAILED_TO_EDIT, FAILED_TO_LOAD, Mask, Pixels

TRAVEL_COLUMN: Final = "__retouch_row"  # the column of a block that carries samples, then answers
MESSAGE_LIMIT: Final = 500  # characters of an error that a results row keeps


@dataclass(frozen=True)
class Failure:
    """Why a row has no image; becomes the ``error_*`` columns of its results row."""

    status: str
    type: str
    message: str
    stage: str

    @classmethod
    def of(cls, error: BaseException, stage: str) -> Failure:
        """A failure from whatever was raised; an error of ours brings its status, others take the stage's."""
        fallback = FAILED_TO_LOAD if stage == "decode" else FAILED_TO_EDIT
        # A deadline is of the stage that it passed in.
        status = error.status if isinstance(error, RowError) and not isinstance(error, DeadlineExceeded) else fallback
        # What storage and decoders raise on their own account is named by what it means for the row.
        kind = type(error).__name__ if not isinstance(error, MemoryError) else "OutOfMemory"
        message = redacted(" ".join(str(error).split())) or kind
        return cls(status, kind, message[:MESSAGE_LIMIT], stage)

    def error(self) -> RowError:
        """The error that this was, or stands for, to be raised where there is no row to answer."""
        known = getattr(errors, self.type, None)
        kind = LoadError if self.status == FAILED_TO_LOAD else EditError
        if isinstance(known, type) and issubclass(known, RowError):
            return known(self.message)
        return kind(f"{self.type}: {self.message}")

    @classmethod
    def of_loss(cls, loss: Loss, stage: str) -> Failure:
        """A row that no worker is given any more."""
        kind: type[RowError] = DeadlineExceeded if loss.overdue else WorkerLost
        how = "ran over the deadline" if loss.overdue else "died"
        text = f"{loss.alone} workers {how} with this row alone in hand"
        return cls(FAILED_TO_LOAD if stage == "decode" else FAILED_TO_EDIT, kind.__name__, text, stage)


@dataclass(frozen=True)
class Sample:
    """A request with its pixels, or with the reason why it has none."""

    key: str
    fingerprint: str
    prompt: str = ""
    source_prompt: str | None = None
    checkpoint: str | None = None
    seed: int | None = None  # the row's own seed; the run's where None
    params: Mapping[str, Any] = field(default_factory=dict)  # this row's overrides
    source: Pixels | None = None  # [H, W, 3] at native size
    alpha: Any = None  # [H, W] uint8 where the image file has an alpha channel
    mask: Mask | None = None  # [H, W] at native size; all True where the row has neither mask nor bbox
    exemplar: Pixels | None = None  # [h, w, 3] at its own size
    landmarks: Sequence[float] | None = None  # x0, y0, x1, y1, ... of a face, native pixels, as the manifest has them
    failure: Failure | None = None


@dataclass(frozen=True)
class Kept:
    """A candidate that is kept, at the network's size."""

    candidate: int
    seed: int
    image: Pixels  # [S, S, 3]
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What the engine says to a sample: the best candidates first, or a failure."""

    sample: Sample
    region: Any = None  # regions.View that the network saw
    kept: Sequence[Kept] = ()
    failure: Failure | None = None  # failed_quality comes with ``kept``; the others without
    attempts: int = 0  # candidates that were tried
    edit_seconds: float = 0.0


def failed_to_load(key: str, fingerprint: str, error: BaseException) -> Sample:
    """A sample that says why it has no pixels."""
    known = error if isinstance(error, RetouchError) else LoadError(f"{type(error).__name__}: {error}")
    return Sample(key, fingerprint, failure=Failure.of(known, "decode"))


def with_travellers(table: pa.Table, rows: Iterable[Sample | Answer]) -> pa.Table:
    """The table with its travelling column set to ``rows``, in order.

    Pickled into a nullable-free binary column: tensor columns with a missing value kill a Ray Data plan, and blocks
    never leave the processes of one run.
    """
    cells = pa.array([pickle.dumps(row, protocol=5) for row in rows], pa.large_binary())
    kept = [name for name in table.column_names if name != TRAVEL_COLUMN]
    return table.select(kept).append_column(TRAVEL_COLUMN, cells)


def travellers(table: pa.Table) -> list[Any]:
    """The samples or answers that a block carries."""
    return [pickle.loads(cell.as_buffer()) for cell in table[TRAVEL_COLUMN]]  # our own bytes, of this run
