"""Kernels whose bits do not depend on how many threads a process happens to have. Knows no network and no editor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def steady_kernels(device: str) -> Iterator[None]:
    """Within, a result on the CPU is decided by its own entry and the batch's shape alone.

    oneDNN splits a convolution by the number of threads: an edit with one thread and with two lies 5e-4 apart at its
    end, which turns the level of 10 pixels in 8 images of 32 x 32. So the editors compute with one, and a machine's
    cores are filled by engines. (Switching oneDNN off has the same effect and takes 1.6 times the CPU.)
    """
    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
