"""Cache of inverted images: an LRU cache in memory, and behind it an optional store that outlives the process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Twice the rows of the largest block, so that a block whose rows are edited target by target inverts each image once.
# 100 MB of host memory at 256 px, 400 MB at 512.
MAX_LATENTS: Final = 128


class Memory(Protocol):
    """Store of latents that outlives the process, of one editor version on one source network. Never raises."""

    def get(self, name: str) -> npt.NDArray[np.float32] | None:
        """Return the latent [3,S,S] of this name; None if it is missing or damaged."""

    def put(self, name: str, latent: npt.NDArray[np.float32]) -> None:
        """Store a latent [3,S,S]."""


class Inversions:
    """LRU cache of latents, on the CPU."""

    def __init__(self, max_latents: int = MAX_LATENTS) -> None:
        self._max = max_latents
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def of(self, names: Sequence[str], invert: Callable[[list[int]], Tensor], memory: Memory | None) -> Tensor:
        """Return the latents of a batch, [B,3,S,S] on the CPU; equal names are computed once.

        Args:
            names: one per entry.
            invert: computes latents of B places of the batch. Called at most once, for the places whose latents are
                missing, the last one repeated up to B: kernels round by shape, so there is only one shape.
            memory: read before ``invert`` is called; computed latents are written to it.
        """
        found: dict[str, Tensor] = {}
        missing: dict[str, int] = {}
        for place, name in enumerate(names):
            if name in found or name in missing:
                continue
            latent = self._find(name, memory)
            if latent is None:
                missing[name] = place
            else:
                found[name] = latent
        if missing:
            places = list(missing.values())
            latents = invert([*places, *[places[-1]] * (len(names) - len(places))]).cpu()
            for name, latent in zip(missing, latents, strict=False):
                found[name] = latent.clone()  # a copy: a view would keep the whole batch
                self._store(name, found[name], memory)
        return torch.stack([found[name] for name in names])

    def _find(self, name: str, memory: Memory | None) -> Tensor | None:
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        array = None if memory is None else memory.get(name)
        if array is None:
            return None
        self._keep(name, torch.from_numpy(array))
        return self._kept[name]

    def _store(self, name: str, latent: Tensor, memory: Memory | None) -> None:
        if not latent.isfinite().all():  # its row fails; a later run must not inherit that
            return
        self._keep(name, latent)
        if memory is not None:
            memory.put(name, latent.numpy())

    def _keep(self, name: str, latent: Tensor) -> None:
        self._kept[name] = latent
        if len(self._kept) > self._max:
            self._kept.popitem(last=False)
