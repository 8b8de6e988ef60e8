"""What the engine made of a row, and how samples and outcomes travel in the blocks of Ray Data."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from retouch.errors import DeadlineExceeded, RowError, WorkerLost
from retouch.manifests.samples import Failure, Sample
from retouch.outputs.in_flight import WorkerLoss
from retouch.schema import FAILED_TO_EDIT, FAILED_TO_LOAD, Pixels

ROW_COLUMN: Final = "__retouch_row"  # of a block: its pickled samples, after the edit stage its outcomes


@dataclass(frozen=True)
class KeptCandidate:
    """A candidate image at the network's size, with its scores."""

    candidate: int
    seed: int
    image: Pixels  # [S, S, 3] in sRGB
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What editing a sample gave: the kept candidates, best first, or a failure."""

    sample: Sample
    region: Any = None  # imaging.regions.View that the network saw
    kept: Sequence[KeptCandidate] = ()
    failure: Failure | None = None  # a failed_quality outcome has ``kept`` as well
    attempts: int = 0  # candidates tried
    edit_seconds: float = 0.0
    at_network_size: bool = False  # written as the network made it, not scaled to the source's size


def lost_row(loss: WorkerLoss, stage: str) -> Failure:
    """Return the failure of a row that is not tried again, since workers died while processing it alone."""
    kind: type[RowError] = DeadlineExceeded if loss.overdue else WorkerLost
    how = "exceeded the timeout" if loss.overdue else "died"
    text = f"{loss.alone} workers {how} while processing this row alone"
    return Failure(FAILED_TO_LOAD if stage == "decode" else FAILED_TO_EDIT, kind.__name__, text, stage)


def pack_rows(table: pa.Table, rows: Iterable[Sample | Outcome]) -> pa.Table:
    """Return the table with samples or outcomes pickled into its row column, in order.

    A binary column without nulls, since tensor columns with a missing value break a Ray Data plan. Blocks never leave
    the processes of one run.
    """
    cells = pa.array([pickle.dumps(row, protocol=5) for row in rows], pa.large_binary())
    kept = [name for name in table.column_names if name != ROW_COLUMN]
    return table.select(kept).append_column(ROW_COLUMN, cells)


def unpack_rows(table: pa.Table) -> list[Any]:
    """Return the samples or outcomes of a block."""
    return [pickle.loads(cell.as_buffer()) for cell in table[ROW_COLUMN]]  # our own bytes, of this run
