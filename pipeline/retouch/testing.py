"""Checks for plug-in authors: an editor that passes ``check_editor`` can be used in a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from retouch.errors import PluginError
from retouch.plugins import check_params
from retouch.schema import Batch, EditResult

PROMPTS = ("a red circle", "a blue square", "", "a green triangle")
CLASS_ATTRIBUTES = ("version", "inputs", "Params", "rank_by", "columns")


def check_editor(editor: Any, params: Mapping[str, Any], weights: Mapping[str, str], device: str = "cpu") -> None:
    """Load an editor and check it against the contract of ``plugins.Editor``.

    Checks the class attributes, the shapes and types of results, that the same batch gives the same pixels, and that
    an entry's pixels depend neither on the other entries of its batch nor on its place in it.

    Args:
        editor: the class.
        params: fields of its Params.
        weights: role to local file.
        device: where to load it.

    Raises:
        PluginError: the editor breaks the contract.
    """
    missing = [name for name in CLASS_ATTRIBUTES if not hasattr(editor, name)]
    if missing:
        raise PluginError(f"{editor.__name__} has no {', '.join(missing)}")
    loaded = editor.load(check_params(editor.Params, params, editor.__name__), weights, device)
    size = getattr(loaded, "image_size", None)
    if not isinstance(size, int):
        raise PluginError(f"{editor.__name__} has no image_size after load")
    batch = _example_batch(size)
    results = _edited(loaded, batch)
    _same(results, _edited(loaded, batch), list(range(len(batch))), "the same batch gave different pixels")
    turned = [2, 0, 3, 1]
    _same(results, _edited(loaded, _reordered(batch, turned)), turned, "an entry changed with its place")
    alone = [1, 1, 1, 1]
    _same(results, _edited(loaded, _reordered(batch, alone)), alone, "an entry changed with its mates")


def _edited(editor: Any, batch: Batch) -> list[EditResult]:
    results: list[EditResult] = editor.edit_batch(batch)
    if len(results) != len(batch):
        raise PluginError(f"{type(editor).__name__} gave {len(results)} results for a batch of {len(batch)}")
    for result in results:
        if result.image.shape != batch.image.shape[1:] or result.image.dtype != np.uint8:
            raise PluginError(
                f"{type(editor).__name__} gave {result.image.dtype} {result.image.shape}; "
                f"expected uint8 {batch.image.shape[1:]}"
            )
        unknown = set(result.metrics) - set(type(editor).columns) - {type(editor).rank_by}
        if unknown:
            raise PluginError(f"{type(editor).__name__} gave metrics {sorted(unknown)}, which its columns do not list")
    return results


def _same(before: list[EditResult], after: list[EditResult], order: list[int], fault: str) -> None:
    for place, entry in enumerate(order):
        apart = np.abs(before[entry].image.astype(int) - after[place].image.astype(int)).max()
        if apart:
            raise PluginError(f"{fault}: entry {entry} at place {place} differs by up to {apart} levels")


def _example_batch(size: int) -> Batch:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    mask = np.zeros((4, size, size), bool)
    mask[:, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = True
    return Batch(image, mask, PROMPTS, (1, 2, 3, 4), exemplar=image[::-1].copy(), source_prompt=PROMPTS)


def _reordered(batch: Batch, order: list[int]) -> Batch:
    assert batch.exemplar is not None
    return Batch(
        batch.image[order],
        batch.mask[order],
        [batch.prompt[i] for i in order],
        [batch.seed[i] for i in order],
        exemplar=batch.exemplar[order],
        source_prompt=[batch.prompt[i] for i in order],
    )
