"""Measurements of a device and a computation: clock, matrix rate, operations, memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode

SIDE: Final = {"cpu": 1024, "cuda": 8192}  # of the square matrices: large against caches and launch times
TURNS: Final = 25
MIB: Final = 2**20


def now(device: str) -> float:
    """Return seconds on the clock by which the device is measured, after waiting for its work to finish.

    On a CPU this is the process's processor time: editors compute with one thread there, so it is what a pass takes on
    an idle machine, and other processes change it less.
    """
    if torch.device(device).type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def matrix_rate(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP/s of a large square matrix product: the best of many, with torch's current threads."""
    side = SIDE.get(torch.device(device).type, SIDE["cpu"])
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)
    seconds = []
    for _ in range(TURNS):
        began = now(device)
        torch.mm(a, b)
        seconds.append(now(device) - began)
    return 2 * side**3 / min(seconds)


def operations(run: Callable[[], Any]) -> int:
    """Count the floating-point operations of ``run``: matrix products, convolutions, attention, backward included."""
    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with counter:
        run()
    return int(counter.get_total_flops())


class _NoModules:
    """A tracker that attributes nothing to modules: torch's own refuses gradients of a network's input."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Memory:
    """Peak memory in MiB: of the device's tensors on CUDA, of the whole process on a CPU."""

    def __init__(self, device: str) -> None:
        self._on_cuda = torch.device(device).type == "cuda"

    def restart(self) -> float:
        """Reset the peak and return the memory in use."""
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / MIB
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")

    def peak(self) -> float:
        """Return the peak since ``restart``."""
        return torch.cuda.max_memory_allocated() / MIB if self._on_cuda else _status("VmHWM")


def _status(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
