"""Latents of images that were inverted before, in memory and, where there is one, in a longer memory.

Knows neither networks nor how an inversion is made: names, and a function for those that are missing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Twice the rows of the largest block, so that a block whose rows are edited towards one target after the other inverts
# each image once. 100 MB at 256 px, 400 MB at 512, of the host's memory.
MOST: Final = 128


class Memory(Protocol):
    """Latents beyond this process, of one version of the editor on one source network: a name says all the rest.

    Never raises: what it cannot give is computed.
    """

    def get(self, name: str) -> npt.NDArray[np.float32] | None:
        """The latent [3,S,S] of this name; None where there is none, or none that is whole."""

    def put(self, name: str, latent: npt.NDArray[np.float32]) -> None:
        """Keep a latent [3,S,S]."""


class Inversions:
    """The latents used last, on the CPU."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def of(self, names: Sequence[str], invert: Callable[[list[int]], Tensor], memory: Memory | None) -> Tensor:
        """The latents of a batch, [B,3,S,S] on the CPU, equal names computed once.

        Args:
            names: one an entry.
            invert: latents of B places of the batch. It is asked at most once, for the places whose latents are
                missing, the last one repeated up to B: kernels round by shape, so there is one shape only.
            memory: asked before ``invert``, and told what was computed.
        """
        found: dict[str, Tensor] = {}
        missing: dict[str, int] = {}
        for place, name in enumerate(names):
            if name in found or name in missing:
                continue
            latent = self._recalled(name, memory)
            if latent is None:
                missing[name] = place
            else:
                found[name] = latent
        if missing:
            places = list(missing.values())
            latents = invert([*places, *[places[-1]] * (len(names) - len(places))]).cpu()
            for name, latent in zip(missing, latents, strict=False):
                found[name] = latent.clone()  # of its own: a view would keep the whole batch
                self._learn(name, found[name], memory)
        return torch.stack([found[name] for name in names])

    def _recalled(self, name: str, memory: Memory | None) -> Tensor | None:
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        array = None if memory is None else memory.get(name)
        if array is None:
            return None
        self._keep(name, torch.from_numpy(array))
        return self._kept[name]

    def _learn(self, name: str, latent: Tensor, memory: Memory | None) -> None:
        if not latent.isfinite().all():  # fails its row; a later run shall not inherit that
            return
        self._keep(name, latent)
        if memory is not None:
            memory.put(name, latent.numpy())

    def _keep(self, name: str, latent: Tensor) -> None:
        self._kept[name] = latent
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
