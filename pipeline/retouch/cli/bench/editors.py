"""Editors that stand in for networks where something else is timed. They edit nothing, and say so in their names."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from retouch.schema import Batch, EditResult

NULL = "retouch.cli.bench.editors:NullEditor"
SIMULATED = "retouch.cli.bench.editors:SimulatedEditor"


@dataclass(frozen=True)
class NullParams:
    """Of ``NullEditor``."""

    image_size: int = 32  # of the square that it is given


class NullEditor:
    """Gives every image back as it came: what is left is the cost of the rows' way through the pipeline."""

    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"mask"})
    Params: ClassVar[type] = NullParams
    rank_by: ClassVar[str | None] = None
    columns: ClassVar[Mapping[str, str]] = {}

    def __init__(self, params: NullParams) -> None:
        self.image_size = params.image_size

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Needs no weights."""
        return cls(params)

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """The images as they came."""
        return [EditResult(image) for image in batch.image]


@dataclass(frozen=True)
class SimulatedParams:
    """Of ``SimulatedEditor``."""

    seconds: float = 1.0  # of a pass, whatever it holds
    image_size: int = 32


class SimulatedEditor:
    """Waits as long as a pass on a device would take, and needs no processor meanwhile.

    On declared GPUs it shows what the pipeline itself adds when there are more actors than this machine has devices.
    """

    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"mask"})
    Params: ClassVar[type] = SimulatedParams
    rank_by: ClassVar[str | None] = None
    columns: ClassVar[Mapping[str, str]] = {}

    def __init__(self, params: SimulatedParams) -> None:
        self.image_size, self.seconds = params.image_size, params.seconds

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Needs no weights."""
        return cls(params)

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """The images as they came, after the pass's seconds."""
        time.sleep(self.seconds)
        return [EditResult(image) for image in batch.image]
