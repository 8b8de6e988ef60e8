"""Rows with boxes to training samples by number, whoever asks for which. Knows no network.

Sample n is a row and a generator that follow from the training's seed and n alone: epoch and place in that epoch's
order. So it does not matter how many workers share a step, which of them makes a sample, or when. A row that cannot be
used is noted, and the sample takes another row, which again follows from n.
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
TRIES: Final = 16  # rows that one sample may try: of a manifest that is 95 % good, one in 1e20 samples finds none
MESSAGE_LIMIT: Final = 200  # characters of a reason that is kept


@dataclass(frozen=True)
class Problem:
    """Why a row is not learned from."""

    kind: str  # UNREADABLE, or WITHOUT_BOX, which is no failure
    reason: str


@dataclass(frozen=True)
class Made:
    """A sample, and what its rows turned out to be: a problem, or None where a row served."""

    example: Example
    rows: Mapping[str, Problem | None]  # by key


@dataclass(frozen=True)
class Rows:
    """What there is to learn from."""

    table: pa.Table  # key, image, boxes (list<list<double>>)
    files: tuple[str, ...]  # of the manifest


def read_rows(sources: str | Sequence[str]) -> Rows:
    """A manifest's rows.

    Raises:
        ManifestError: it is none, has no rows, or no boxes.
    """
    found = reader.read(sources)
    table = found.table
    if BOXES not in table.column_names:
        raise ManifestError(f"the manifest has no column {BOXES!r}, a list of [x0, y0, x1, y1] a row, to learn from")
    if not table.num_rows:
        raise ManifestError("the manifest has no rows to learn from")
    return Rows(table.select(["key", "image"]).append_column(BOXES, _lists(table[BOXES])), found.files)


def _lists(column: pa.ChunkedArray) -> pa.ChunkedArray:
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
    """Samples of the table of ``Rows``, made side by side in threads and ahead of their use."""

    def __init__(self, rows: pa.Table, params: TrainParams, sizes: Sizes, seed: int, threads: int = 1) -> None:
        self._rows, self._params, self._sizes, self._seed = rows, params, sizes, seed
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="samples")
        self._ahead: dict[int, Future[Made]] = {}

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    def ask(self, numbers: Sequence[int]) -> None:
        """Begin to make these samples, unless they are under way."""
        for number in numbers:
            if number not in self._ahead:
                self._ahead[number] = self._pool.submit(self.make, number)

    def take(self, numbers: Sequence[int]) -> list[Made]:
        """These samples, waited for.

        Raises:
            ManifestError: one found no row to be made of.
        """
        self.ask(numbers)
        return [self._ahead.pop(number).result() for number in numbers]

    def close(self) -> None:
        """Drop what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def make(self, number: int) -> Made:
        """The sample of a number, here and now."""
        found: dict[str, Problem | None] = {}
        for attempt in range(TRIES):
            row = row_of(self._seed, number, len(self), attempt)
            request = self._rows.slice(row, 1).to_pylist()[0]
            rng = np.random.default_rng(derive_seed(self._seed, "sample", number, attempt))
            try:
                example = self._made(request, rng)
            except RowError as error:
                found[request["key"]] = _problem(error)
            else:
                return Made(example, {**found, request["key"]: None})
        reasons = "; ".join(f"{key}: {problem.reason}" for key, problem in found.items() if problem)
        raise ManifestError(f"{TRIES} rows in a row gave nothing to learn from: {reasons[:400]}")

    def _made(self, request: Mapping[str, Any], rng: np.random.Generator) -> Example:
        sample = decode({**request, "fingerprint": ""}, DecodeSpec(frozenset()))
        if sample.source is None:
            raise RowError(sample.failure.message if sample.failure else "it has no pixels")
        boxes = [box for box in request[BOXES] or () if box]
        return make_example(sample.source, boxes, self._params, self._sizes, rng)


def _problem(error: RowError) -> Problem:
    kind = WITHOUT_BOX if isinstance(error, NoBox) else UNREADABLE
    return Problem(kind, " ".join(str(error).split())[:MESSAGE_LIMIT])


def row_of(seed: int, number: int, rows: int, attempt: int = 0) -> int:
    """Row of a sample: each once an epoch, in the epoch's own order; another attempt may take any row."""
    if attempt:
        return int(np.random.default_rng(derive_seed(seed, "instead", number, attempt)).integers(rows))
    epoch, place = divmod(number, rows)
    return int(_order(seed, epoch, rows)[place])


@lru_cache(maxsize=2)  # a step may reach into the next epoch
def _order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(rows)


def share(first: int, worker: int, workers: int, batch: int, accumulate: int) -> list[list[int]]:
    """Numbers of the samples that a worker takes of a step which begins with ``first``: ``accumulate`` batches.

    All workers together take ``first`` to ``first + workers * accumulate * batch - 1``.
    """
    starts = [first + (part * workers + worker) * batch for part in range(accumulate)]
    return [list(range(start, start + batch)) for start in starts]
