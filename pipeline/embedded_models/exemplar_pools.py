"""Pools of exemplar training examples: drawn once by several processes, cached as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np
import numpy.typing as npt
from retouch.models.embedded.data import in_chunks
from retouch.models.embedded.scenes import COLOURS, SHAPES
from retouch.schema import Mask, Pixels

from embedded_models.exemplars import other_reference, training_pair

KINDS: Final = tuple((shape, colour) for shape in SHAPES for colour in COLOURS)
Kinds = npt.NDArray[np.int64]  # [N], indices into KINDS


@dataclass(frozen=True)
class Pool:
    """Arrays of one length, one entry per example."""

    def save(self, path: Path) -> None:
        """Write all arrays to one .npz."""
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a pool that ``save`` wrote."""
        with np.load(path) as stored:
            return cls(**{field.name: stored[field.name] for field in fields(cls)})

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Return several pools as one."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@dataclass(frozen=True)
class Pairs(Pool):
    """Training pairs: expected images, masks, and each image's own reference."""

    target: Pixels  # [N, S, S, 3]
    mask: Mask  # [N, S, S], True = edit
    own: Pixels  # [N, S, S, 3]
    kind: Kinds

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class References(Pool):
    """References drawn on their own grounds, not cropped from a scene."""

    image: Pixels  # [N, S, S, 3]
    kind: Kinds

    def __len__(self) -> int:
        return len(self.image)


def pair_pool(count: int, first_seed: int, cache: Path | None = None) -> Pairs:
    """Return the training pairs of consecutive seeds, cached in ``cache`` (.npz) if given."""
    return _pooled(Pairs, _pairs, count, first_seed, cache)


def reference_pool(count: int, first_seed: int, cache: Path | None = None) -> References:
    """Return references of consecutive seeds, every kind equally often, cached in ``cache`` (.npz) if given."""
    return _pooled(References, _references, count, first_seed, cache)


P = TypeVar("P", Pairs, References)


def _pooled(pool: type[P], draw: Callable[[int, int], P], count: int, first_seed: int, cache: Path | None) -> P:
    if cache is not None and cache.exists():
        stored = pool.load(cache)
        if len(stored) == count:
            return stored
    drawn = pool.joined(in_chunks(draw, count, first_seed))
    if cache is not None:
        drawn.save(cache)
    return drawn


def _pairs(first: int, count: int) -> Pairs:
    drawn = [training_pair(seed) for seed in range(first, first + count)]
    return Pairs(
        np.stack([pair.target for pair in drawn]),
        np.stack([pair.mask for pair in drawn]),
        np.stack([pair.own for pair in drawn]),
        np.array([KINDS.index((pair.shape, pair.colour)) for pair in drawn]),
    )


def _references(first: int, count: int) -> References:
    kinds = np.arange(first, first + count) % len(KINDS)
    images = [
        other_reference(np.random.default_rng((seed, 7)), *KINDS[kind])
        for seed, kind in zip(range(first, first + count), kinds, strict=True)
    ]
    return References(np.stack(images), kinds)
