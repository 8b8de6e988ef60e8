"""Editors without networks, for tests of everything but the editor: ``tests.helpers.painters:Painter``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from retouch.errors import EditError
from retouch.schema import Batch, EditResult, Pixels


@dataclass(frozen=True)
class PainterParams:
    size: int = 16
    grey: int | None = None  # paint this instead of the seed's colour
    most: int = 1000  # largest batch that fits the "device"


class OutOfMemoryError(RuntimeError):
    """An error with the name of torch's."""


class Painter:
    """An editor that fills the mask with a colour of the seed; some prompts make it fail."""

    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "prompt"})
    Params: ClassVar[type] = PainterParams
    rank_by: ClassVar[str | None] = "distance"
    columns: ClassVar[Mapping[str, str]] = {"distance": "float64"}
    calls: ClassVar[list[int]] = []  # sizes of the batches that were edited

    def __init__(self, params: PainterParams) -> None:
        self.params, self.image_size = params, params.size

    @classmethod
    def load(cls, params: PainterParams, weights: Mapping[str, str], device: str) -> Self:
        return cls(params)

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        Painter.calls.append(len(batch))
        if len(batch) > self.params.most:
            raise OutOfMemoryError(f"{len(batch)} entries")
        if "crash" in batch.prompt:
            os._exit(7)
        if "raise" in batch.prompt:
            raise EditError("this prompt cannot be edited")
        if "short" in batch.prompt:
            return []
        return [self._paint(batch, i) for i in range(len(batch))]

    def _paint(self, batch: Batch, i: int) -> EditResult:
        seed, grey = batch.seed[i], batch.params.get("grey", self.params.grey)
        colour = [seed & 255, seed >> 8 & 255, seed >> 16 & 255] if grey is None else [grey] * 3
        image = batch.image[i].copy()
        image[batch.mask[i]] = np.array(colour, np.uint8)
        return EditResult(image, {"distance": (seed % 1000) / 1000})


class Redness:
    """A metric: the edited image's mean red; undefined for the prompt "undefined"."""

    columns: ClassVar[Mapping[str, str]] = {"redness": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, **options: Any) -> Self:
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> list[dict[str, float | None]]:
        return [
            {"redness": None if prompt == "undefined" else float(image[..., 0].mean())}
            for prompt, image in zip(batch.prompt, edited, strict=True)
        ]


class Neighbourly(Painter):
    """An editor that breaks the contract: an entry's colour depends on the whole batch."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        images = [np.full_like(image, sum(batch.seed) % 251) for image in batch.image]
        return [EditResult(image, {"distance": 0.0}) for image in images]


class Shifter(Painter):
    """An editor whose images lie four pixels further right than their sources, as those of some models do."""

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        return [EditResult(np.roll(image, 4, axis=1), {"distance": 0.0}) for image in batch.image]
