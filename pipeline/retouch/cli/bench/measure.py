"""What a device can do and what a computation asks of it: matrix rate, operations, memory. Knows no editor."""

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
    """Seconds on the clock that the device is measured by, after all that it was given is done.

    On a CPU the process's own processor time: editors compute with one thread there, so it is what a pass takes where
    nothing else runs, and a busy machine changes it less.
    """
    if torch.device(device).type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def matrix_rate(device: str, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a large square product in the best of many turns, with as many threads as torch has now."""
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
    """Floating-point operations of what ``run`` does: matrix products, convolutions, attention, backward included."""
    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    with counter:
        run()
    return int(counter.get_total_flops())


class _NoModules:
    """Counts for no module in particular: torch's own tracker refuses gradients of a network's input."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


class Memory:
    """The most memory at one time, MiB: of the device's tensors on CUDA, of the whole process elsewhere."""

    def __init__(self, device: str) -> None:
        self._on_cuda = torch.device(device).type == "cuda"

    def restart(self) -> float:
        """Forget the peak; returns what is held now."""
        if self._on_cuda:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / MIB
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")

    def peak(self) -> float:
        """The peak since ``restart``."""
        return torch.cuda.max_memory_allocated() / MIB if self._on_cuda else _status("VmHWM")


def _status(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
