"""The group of workers that share one training: torch's process group, or a single worker without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from retouch import errors
from retouch.errors import RetouchError, StopRun

T = TypeVar("T")


class WorkerGroup:
    """A worker's view of the group. All workers call each method at the same place in their code."""

    def __init__(self, device: str) -> None:
        grouped = distributed.is_available() and distributed.is_initialized()
        self.device = torch.device(device)
        self.size = distributed.get_world_size() if grouped else 1
        self.rank = distributed.get_rank() if grouped else 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all workers."""
        if self.size == 1:
            return [float(value) for value in values]
        sums = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, value)
        return found

    def succeed_or_fail_together(self, work: Callable[[], T]) -> T:
        """Return this worker's result of ``work``, or raise a Retouch error of any worker in all of them.

        A worker that raised alone would leave the others waiting for it in the next step.
        """
        own: RetouchError | None = None
        result: T | None = None
        try:
            result = work()
        except RetouchError as error:
            own = error
        if self.sum([own is not None])[0]:
            failures = self.gather(None if own is None else (type(own).__name__, str(own)))
            name, message = next(failure for failure in failures if failure is not None)
            raise own or getattr(errors, name, StopRun)(message)
        return result  # type: ignore[return-value]  # it raised otherwise

    def parallel(self, module: nn.Module) -> nn.Module:
        """Return the module with gradients averaged over all workers."""
        if self.size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)
