"""Rows that cost alike: by what decides a pass (checkpoint, parameters, exemplar) and by the source's size.

What decides a pass is in the manifest, for every row. Sizes are in the image files: the heads of a sample are read.
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
from retouch.manifests import deferred_images
from retouch.manifests.columns import image_source

THREADS: Final = 16  # heads fetched side by side
_SHOWN: Final = 40  # characters of parameters in a name


@dataclass(frozen=True, order=True)
class Kind:
    """What decides what a pass costs; rows of one kind may share passes."""

    checkpoint: str = ""
    params: str = ""  # JSON, as the manifest has it
    exemplar: bool = False

    @property
    def name(self) -> str:
        """For people."""
        shown = self.params if len(self.params) <= _SHOWN else f"{self.params[:_SHOWN]}..."
        parts = [self.checkpoint.rpartition("/")[2], shown, "exemplar" if self.exemplar else ""]
        return " ".join(part for part in parts if part) or "all alike"


@dataclass(frozen=True)
class Strata:
    """The rows of a table by kind, and what a sample says of their sizes."""

    kinds: tuple[Kind, ...]  # commonest first
    of_row: tuple[int, ...]  # place in ``kinds`` of every row's
    megapixels: Mapping[int, float]  # row to its source's size, of those of the sample whose file has a head

    def shares(self) -> dict[tuple[int, int], float]:
        """(kind, size class) to its share of all rows; together 1. Kinds are counted, sizes are the sample's."""
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
        """A row's size class; None where its file was not looked at, or could not be."""
        return size_class(self.megapixels[row]) if row in self.megapixels else None

    @property
    def mean_megapixels(self) -> float:
        """Of a row; 0 where the sample has no image with a head."""
        return sum(self.megapixels.values()) / max(len(self.megapixels), 1)


def size_class(megapixels: float) -> int:
    """The n for which the size is over 2^(n-1) and at most 2^n megapixels."""
    return math.ceil(math.log2(max(megapixels, 2.0**-10)))


def size_name(size: int) -> str:
    """``up to 0.5 MP``."""
    return f"up to {2.0**size:.3g} MP"


def strata(table: pa.Table, rows: Sequence[int]) -> Strata:
    """Sort a table's rows by what they cost.

    Args:
        table: a manifest's rows.
        rows: the sample whose images' heads are read.
    """
    found = _kinds(table)
    order = tuple(kind for kind, _ in sorted(Counter(found).items(), key=lambda item: (-item[1], item[0])))
    places = {kind: place for place, kind in enumerate(order)}
    cells = deferred_images.filled(table.take(pa.array(rows, pa.int64())))["image"].to_pylist()
    with ThreadPoolExecutor(THREADS) as threads:
        sizes = dict(zip(rows, threads.map(_megapixels, cells), strict=True))
    known = {row: size for row, size in sizes.items() if size is not None}
    return Strata(order, tuple(places[kind] for kind in found), known)


def chosen(keys: Sequence[str], count: int) -> list[int]:
    """Places of ``count`` rows, drawn by a hash of their keys: from all over, and the same ones every time."""
    digests = {place: hashlib.sha256(key.encode()).digest() for place, key in enumerate(keys)}
    return sorted(sorted(digests, key=lambda place: digests[place])[:count])


def _kinds(table: pa.Table) -> list[Kind]:
    empty = [None] * table.num_rows
    checkpoints, params = (
        table[name].to_pylist() if name in table.column_names else empty for name in ("checkpoint", "params")
    )
    exemplars = table["exemplar"].is_valid().to_pylist() if "exemplar" in table.column_names else empty
    return [
        Kind(checkpoint or "", text or "", bool(exemplar))
        for checkpoint, text, exemplar in zip(checkpoints, params, exemplars, strict=True)
    ]


def _megapixels(cell: Any) -> float | None:
    """Of an image cell, from the head of its file."""
    source = image_source(cell)
    if not source:
        return None
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else storage.open_input(source) as file:
            height, width = codec.size_of(file)
    except (LoadError, StorageError, OSError, TypeError, ValueError):
        return None  # the doctor and the run say what it is
    return height * width / 1e6
