"""Drawn scenes in bulk, as arrays and tensors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from retouch.models.embedded.scenes import SIZE, draw_scene
from retouch.schema import Pixels

T = TypeVar("T")
CHUNK = 2000  # scenes per task of the drawing pool, about two seconds


def scene_pool(count: int, first_seed: int, cache: Path | None = None) -> Pixels:
    """Return scenes of ``count`` seeds from ``first_seed``, [N, 32, 32, 3] uint8; cached in ``cache`` (.npy)."""
    if cache is not None and cache.exists():
        stored: Pixels = np.load(cache)
        if len(stored) == count:
            return stored
    images = np.concatenate(in_chunks(_draw_chunk, count, first_seed))
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, images)
    return images


def in_chunks(draw: Callable[[int, int], T], count: int, first_seed: int, workers: int = 2) -> list[T]:
    """Return ``draw(first, count)`` of consecutive seeds, in worker processes if there is more than one chunk."""
    starts = range(first_seed, first_seed + count, CHUNK)
    sizes = [min(CHUNK, first_seed + count - start) for start in starts]
    if len(starts) == 1:
        return [draw(first_seed, count)]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        return list(pool.map(draw, starts, sizes))


def to_tensor(images: Pixels) -> Tensor:
    """Convert uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pixels(images: Tensor) -> Pixels:
    """Convert float [N, 3, H, W] in [-1, 1] to uint8 [N, H, W, 3]; values outside are clamped."""
    array: Pixels = images.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return array


def _draw_chunk(first: int, count: int) -> Pixels:
    return np.stack([draw_scene(seed, SIZE).image for seed in range(first, first + count)])
