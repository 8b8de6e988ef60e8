"""Editors that stand in for networks when something else is timed. They return images unchanged."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from retouch.schema import Batch, EditResult

SIMULATED = "retouch.cli.bench.editors:SimulatedEditor"


@dataclass(frozen=True)
class SimulatedParams:
    """Parameters of ``SimulatedEditor``."""

    seconds: float = 1.0  # per pass, whatever its batch size
    image_size: int = 32


class SimulatedEditor:
    """Waits for as long as a pass on a device would take, without using a processor.

    On declared GPUs it measures what the pipeline adds if there are more actors than this machine has devices; with
    ``seconds=0`` only the pipeline's own cost is left.
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
        """Return the editor; it has no weights."""
        return cls(params)

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return the images unchanged after the seconds of a pass."""
        time.sleep(self.seconds)
        return [EditResult(image) for image in batch.image]
