"""What a device can do, and what a computation asks of it."""

from __future__ import annotations

import numpy as np
import torch
from retouch.cli.bench.measure import Memory, matrix_rate, operations
from torch.nn import functional as F  # noqa: N812 - torch's own name for it


def test_the_operations_of_a_product_and_of_its_gradient_are_counted() -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4, requires_grad=True)
    assert operations(lambda: a @ b.detach()) == 2 * 8 * 16 * 4
    assert operations(lambda: torch.autograd.grad((a @ b).sum(), b)) == 2 * 2 * 8 * 16 * 4


def test_the_operations_of_attention_on_a_cpu_are_counted() -> None:
    q = torch.ones(1, 2, 8, 16)
    assert operations(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * (2 * 2 * 8 * 8 * 16)


def test_the_rate_of_matrix_products_is_a_rate() -> None:
    assert 1e8 < matrix_rate("cpu") < 1e14


def test_the_peak_of_memory_falls_back_after_a_restart() -> None:
    memory = Memory("cpu")
    memory.restart()
    large = np.ones(2**25)  # 256 MiB
    high = memory.peak()
    del large
    resting = memory.restart()
    assert high - resting > 200
    assert memory.peak() < high - 200
