"""Strata: rows with similar cost, grouped by kind of forward pass and by size of the edited image.

The kind (checkpoint, parameters, exemplar) is in the manifest for every row. Sizes are read from the image headers of a
sample of rows.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from retouch import storage
from retouch.errors import LoadError, StorageError
from retouch.imaging import codec
from retouch.imaging.canvas import place
from retouch.jobs.canvas import CanvasSpec
from retouch.manifests import deferred_images
from retouch.manifests.columns import image_source

THREADS: Final = 16  # headers fetched in parallel
_SHOWN: Final = 40  # characters of parameters in a name


@dataclass(frozen=True, order=True)
class PassKind:
    """What determines the cost of a forward pass. Rows of one kind may share passes."""

    checkpoint: str = ""
    params: str = ""  # JSON, as the manifest has it
    exemplar: bool = False

    @property
    def name(self) -> str:
        """Short name for reports."""
        shown = self.params if len(self.params) <= _SHOWN else f"{self.params[:_SHOWN]}..."
        parts = [self.checkpoint.rpartition("/")[2], shown, "exemplar" if self.exemplar else ""]
        return " ".join(part for part in parts if part) or "all alike"


@dataclass(frozen=True)
class Strata:
    """The rows of a table by kind of pass, and the sizes of a sample of them."""

    kinds: tuple[PassKind, ...]  # most frequent first
    of_row: tuple[int, ...]  # each row's index into ``kinds``
    megapixels: Mapping[int, float]  # row to the size of its image, for readable rows of the sample

    def shares(self) -> dict[tuple[int, int], float]:
        """Return (kind, size class) to its share of all rows; shares sum to 1. Sizes are estimated from the sample."""
        total = len(self.of_row)
        everywhere = Counter(map(size_class, self.megapixels.values())) or Counter({0: 1})
        found: dict[tuple[int, int], float] = {}
        for kind, rows in Counter(self.of_row).items():
            mine = Counter(size_class(mp) for row, mp in self.megapixels.items() if self.of_row[row] == kind)
            sizes = mine or everywhere
            for size, count in sizes.items():
                found[kind, size] = rows / total * count / sizes.total()
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def size_of(self, row: int) -> int | None:
        """Return a row's size class; None if its header was not read or not readable."""
        return size_class(self.megapixels[row]) if row in self.megapixels else None

    @property
    def mean_megapixels(self) -> float:
        """Mean size of the sample's edited images; 0 if none is readable."""
        return sum(self.megapixels.values()) / max(len(self.megapixels), 1)


def size_class(megapixels: float) -> int:
    """Return the n with 2^(n-1) < size <= 2^n megapixels."""
    return math.ceil(math.log2(max(megapixels, 2.0**-10)))


def size_name(size: int) -> str:
    """Return ``up to 0.5 MP``."""
    return f"up to {2.0**size:.3g} MP"


def stratify(table: pa.Table, rows: Sequence[int], canvas: CanvasSpec | None = None) -> Strata:
    """Group a table's rows by their cost.

    Args:
        table: rows of a manifest.
        rows: the sample whose image headers are read.
        canvas: the job's.
    """
    found = _kinds(table)
    order = tuple(kind for kind, _ in sorted(Counter(found).items(), key=lambda item: (-item[1], item[0])))
    indices = {kind: index for index, kind in enumerate(order)}
    cells = deferred_images.load_deferred(table.take(pa.array(rows, pa.int64())))["image"].to_pylist()
    with ThreadPoolExecutor(THREADS) as threads:
        sizes = dict(zip(rows, threads.map(lambda cell: _megapixels(cell, canvas), cells), strict=True))
    known = {row: size for row, size in sizes.items() if size is not None}
    return Strata(order, tuple(indices[kind] for kind in found), known)


def sample_rows(keys: Sequence[str], count: int) -> list[int]:
    """Return the indices of ``count`` rows, chosen by a hash of their keys: spread out, and always the same ones."""
    digests = {row: hashlib.sha256(key.encode()).digest() for row, key in enumerate(keys)}
    return sorted(sorted(digests, key=lambda row: digests[row])[:count])


def _kinds(table: pa.Table) -> list[PassKind]:
    empty = [None] * table.num_rows
    checkpoints, params = (
        table[name].to_pylist() if name in table.column_names else empty for name in ("checkpoint", "params")
    )
    exemplars = table["exemplar"].is_valid().to_pylist() if "exemplar" in table.column_names else empty
    return [
        PassKind(checkpoint or "", text or "", bool(exemplar))
        for checkpoint, text, exemplar in zip(checkpoints, params, exemplars, strict=True)
    ]


def _megapixels(cell: Any, canvas: CanvasSpec | None) -> float | None:
    """Return the size of a cell's image, on its canvas, from its file's header; None if it is not readable."""
    source = image_source(cell)
    if not source:
        return None
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else storage.open_input(source) as file:
            height, width = codec.size_of(file)
    except (LoadError, StorageError, OSError, TypeError, ValueError):
        return None  # check and run report what is wrong with it
    if canvas is not None:
        height, width = place((height, width), canvas.margins)[1]
    return height * width / 1e6
