"""Randomness that belongs to the request: named streams with one generator per entry.

Draws are made on the CPU and moved, so that an entry's noise depends on its seed alone: not on its batch mates, their
number, or the device. Each stream has its own generators, so that a stream that is not used (a background that is not
blended, for example) leaves the others unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor


class Draws(Protocol):
    """A source of random tensors: ``Noise``, or recorded numbers in a test."""

    def normal(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Return standard normal float32 [B, *shape] on the device."""

    def uniform(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Return uniform numbers in [0, 1), float64 [B, *shape], on the CPU: parameters, not pixels."""

    def integers(self, stream: str, high: int) -> Tensor:
        """Return uniform numbers in 0..high-1, int64 [B], on the device."""


class Noise:
    """One generator per entry and stream."""

    def __init__(self, seeds: Sequence[int], device: str | torch.device = "cpu") -> None:
        self._seeds = [int(seed) for seed in seeds]
        self._device = torch.device(device)
        self._streams: dict[str, list[Generator]] = {}

    def normal(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Return standard normal float32 [B, *shape] on the device."""
        return self._to_device(self._drawn(stream, lambda one: torch.randn(tuple(shape), generator=one)))

    def uniform(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Return uniform numbers in [0, 1), float64 [B, *shape], on the CPU."""
        return self._drawn(stream, lambda one: torch.rand(tuple(shape), generator=one, dtype=torch.float64))

    def integers(self, stream: str, high: int) -> Tensor:
        """Return uniform numbers in 0..high-1, int64 [B], on the device."""
        return self._to_device(self._drawn(stream, lambda one: torch.randint(high, (), generator=one)))

    def _drawn(self, stream: str, draw: Callable[[Generator], Tensor]) -> Tensor:
        if stream not in self._streams:
            seeds = (derive_seed(seed, stream) for seed in self._seeds)
            self._streams[stream] = [Generator("cpu").manual_seed(seed) for seed in seeds]
        return torch.stack([draw(one) for one in self._streams[stream]])

    def _to_device(self, drawn: Tensor) -> Tensor:
        return to_device(drawn, self._device)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on the device. The copy does not wait for running kernels, so the next draw overlaps it."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a seed in 0..2**63-1 for one purpose, the same on every machine."""
    text = "\x1f".join([str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
