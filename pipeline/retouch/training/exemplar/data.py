"""Training samples by number, made from a manifest's rows with boxes.

Sample n's row and random generator depend only on the training's seed and n (epoch and place in that epoch's order). So
it does not matter how many workers share a step, which of them makes a sample, or when. If a row cannot be used, the
reason is returned with the sample, which takes another row; that one depends only on n, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as kinds

from retouch.diffusion.noise import derive_seed
from retouch.errors import ManifestError, RowError
from retouch.jobs.train_params import TrainParams
from retouch.manifests import reader
from retouch.manifests.decode import DecodeSpec, decode
from retouch.training.exemplar.examples import Example, NoBox, Sizes, make_example
from retouch.training.exemplar.task import UNREADABLE, WITHOUT_BOX

BOXES: Final = "boxes"  # the manifest's column
MAX_TRIES: Final = 16  # rows per sample: if 5 % of a manifest's rows are bad, one in 1e20 samples finds none
MESSAGE_LIMIT: Final = 200  # characters of a reason


@dataclass(frozen=True)
class Problem:
    """Why a row is not used."""

    kind: str  # UNREADABLE, or WITHOUT_BOX, which is not a failure
    reason: str


@dataclass(frozen=True)
class TrainSample:
    """An example, and the rows that were tried for it, each with its problem or None if it could be used."""

    example: Example
    rows: Mapping[str, Problem | None]  # by key


@dataclass(frozen=True)
class TrainRows:
    """The rows of a training's manifest."""

    table: pa.Table  # key, image, boxes (list<list<double>>)
    files: tuple[str, ...]  # of the manifest


def read_rows(sources: str | Sequence[str]) -> TrainRows:
    """Return a manifest's rows.

    Raises:
        ManifestError: the manifest cannot be read, or has no rows or no boxes.
    """
    found = reader.read(sources)
    table = found.table
    if BOXES not in table.column_names:
        raise ManifestError(f"the manifest has no column {BOXES!r}; add one with a list of [x0, y0, x1, y1] per row")
    if not table.num_rows:
        raise ManifestError("the manifest has no rows to train on")
    return TrainRows(table.select(["key", "image"]).append_column(BOXES, _box_lists(table[BOXES])), found.files)


def _box_lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
    wanted = pa.list_(pa.list_(pa.float64()))
    listed = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list)
    inner = column.type.value_type if any(test(column.type) for test in listed) else None
    if inner is None or not any(test(inner) for test in (*listed, kinds.is_null)):
        raise ManifestError(f"column {BOXES!r} is {column.type}; expected a list of lists of numbers x0, y0, x1, y1")
    try:
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ManifestError(f"column {BOXES!r}: {' '.join(str(error).split())}") from None


class Samples:
    """Samples of a table of rows, made in threads and ahead of their use."""

    def __init__(self, rows: pa.Table, params: TrainParams, sizes: Sizes, seed: int, threads: int = 1) -> None:
        self._rows, self._params, self._sizes, self._seed = rows, params, sizes, seed
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="samples")
        self._pending: dict[int, Future[TrainSample]] = {}

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def prefetch(self, numbers: Sequence[int]) -> None:
        """Start making these samples, unless that has begun."""
        for number in numbers:
            if number not in self._pending:
                self._pending[number] = self._pool.submit(self.make, number)

    def take(self, numbers: Sequence[int]) -> list[TrainSample]:
        """Wait for these samples and return them.

        Raises:
            ManifestError: no usable row was found for a sample.
        """
        self.prefetch(numbers)
        return [self._pending.pop(number).result() for number in numbers]

    def close(self) -> None:
        """Cancel the samples that are being made."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def make(self, number: int) -> TrainSample:
        """Make the sample of a number in this thread."""
        found: dict[str, Problem | None] = {}
        for attempt in range(MAX_TRIES):
            row = row_of(self._seed, number, len(self), attempt)
            request = self._rows.slice(row, 1).to_pylist()[0]
            rng = np.random.default_rng(derive_seed(self._seed, "sample", number, attempt))
            try:
                example = self._example(request, rng)
            except RowError as error:
                found[request["key"]] = _problem(error)
            else:
                return TrainSample(example, {**found, request["key"]: None})
        reasons = "; ".join(f"{key}: {problem.reason}" for key, problem in found.items() if problem)
        raise ManifestError(f"{MAX_TRIES} rows tried, none usable: {reasons[:400]}; fix them or leave them out")

    def _example(self, request: Mapping[str, Any], rng: np.random.Generator) -> Example:
        sample = decode({**request, "fingerprint": ""}, DecodeSpec(frozenset()))
        if sample.source is None:
            raise RowError(sample.failure.message if sample.failure else "it has no pixels")
        boxes = [box for box in request[BOXES] or () if box]
        return make_example(sample.as_seen(), boxes, self._params, self._sizes, rng)


def _problem(error: RowError) -> Problem:
    kind = WITHOUT_BOX if isinstance(error, NoBox) else UNREADABLE
    return Problem(kind, " ".join(str(error).split())[:MESSAGE_LIMIT])


def row_of(seed: int, number: int, rows: int, attempt: int = 0) -> int:
    """Return the row of a sample: each row once per epoch, in the epoch's order; a later attempt may take any row."""
    if attempt:
        return int(np.random.default_rng(derive_seed(seed, "instead", number, attempt)).integers(rows))
    epoch, place = divmod(number, rows)
    return int(_order(seed, epoch, rows)[place])


@lru_cache(maxsize=2)  # a step may reach into the next epoch
def _order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(rows)


def worker_batches(first: int, worker: int, workers: int, batch: int, accumulate: int) -> list[list[int]]:
    """Return the sample numbers of one worker in a step that begins with ``first``: ``accumulate`` batches.

    All workers together take ``first`` to ``first + workers * accumulate * batch - 1``.
    """
    starts = [first + (part * workers + worker) * batch for part in range(accumulate)]
    return [list(range(start, start + batch)) for start in starts]
