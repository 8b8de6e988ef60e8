"""The workers of one training, as each of them sees the others: torch's process group, or none. Knows no cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from retouch import errors
from retouch.errors import RetouchError, StopRun

T = TypeVar("T")


class Crew:
    """This worker among all; every method is called by all of them at the same place."""

    def __init__(self, device: str) -> None:
        grouped = distributed.is_available() and distributed.is_initialized()
        self.device = torch.device(device)
        self.size = distributed.get_world_size() if grouped else 1
        self.rank = distributed.get_rank() if grouped else 0

    def summed(self, values: Sequence[float]) -> list[float]:
        """Sums over all workers."""
        if self.size == 1:
            return [float(value) for value in values]
        both = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        distributed.all_reduce(both)
        found: list[float] = both.tolist()
        return found

    def gathered(self, thing: T) -> list[T]:
        """Every worker's, by rank."""
        if self.size == 1:
            return [thing]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, thing)
        return found

    def agreed(self, work: Callable[[], T]) -> T:
        """This worker's result of ``work``, or an error of ours that any worker had in it, raised in all.

        One that raised alone would leave the others waiting for it in the next step.
        """
        mine: RetouchError | None = None
        result: T | None = None
        try:
            result = work()
        except RetouchError as error:
            mine = error
        if self.summed([mine is not None])[0]:
            said = self.gathered(None if mine is None else (type(mine).__name__, str(mine)))
            name, message = next(pair for pair in said if pair is not None)
            raise mine or getattr(errors, name, StopRun)(message)
        return result  # type: ignore[return-value]  # it raised otherwise

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all workers."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)
