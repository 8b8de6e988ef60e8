"""Checks for plug-in authors: an editor that passes ``check_editor`` can be used in a job."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from retouch.errors import PluginError
from retouch.plugins import check_params
from retouch.schema import Batch, EditResult

PROMPTS = ("a red circle", "a blue square", "", "a green triangle")
LONG_PROMPT = "and a white cross"
CLASS_ATTRIBUTES = ("version", "inputs", "Params", "rank_by", "columns")


def check_editor(editor: Any, params: Mapping[str, Any], weights: Mapping[str, str], device: str = "cpu") -> None:
    """Load an editor and check it against the contract of ``plugins.Editor``.

    Checks the class attributes, the shapes and types of results, that the same batch gives the same pixels, that an
    entry's pixels depend neither on the other entries of its batch (their images, masks, exemplars, seeds, and prompts
    of another length) nor on its place in it, that the batch is not written to, and that no global random generator
    is used.

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
    height, width = loaded.sizes(size, size) if hasattr(loaded, "sizes") else (size, size)
    batch = _example_batch(height, width, frozenset(editor.inputs))
    results = _edited(loaded, batch)
    everyone = list(range(len(batch)))
    before = _random_states()  # after the first batch, in which networks may still be built, which draws weights
    _same(results, _edited(loaded, batch), everyone, "the same batch gave different pixels")
    if _random_states() != before:
        raise PluginError(f"{editor.__name__} draws from a global random generator; draw from each entry's seed")
    turned = [2, 0, 3, 1]
    _same(results, _edited(loaded, _reordered(batch, turned)), turned, "an entry changed with its place")
    alone = [1, 1, 1, 1]
    _same(results, _edited(loaded, _reordered(batch, alone)), alone, "an entry changed with its mates")
    _same(results[:1], _edited(loaded, _with_other_mates(batch))[:1], [0], "an entry changed with its mates' inputs")


def _random_states() -> list[Any]:
    """Return the states of Python's, NumPy's and torch's global generators."""
    states: list[Any] = [random.getstate(), np.random.get_state()[1].tobytes()]  # type: ignore[index]
    torch = sys.modules.get("torch")
    return states if torch is None else [*states, bytes(torch.get_rng_state().numpy())]


def _edited(editor: Any, batch: Batch) -> list[EditResult]:
    given = copy.deepcopy(batch)
    results: list[EditResult] = editor.edit_batch(given)
    for name, value in vars(batch).items():
        if not np.array_equal(getattr(given, name), value):
            raise PluginError(f"{type(editor).__name__} wrote into its batch's {name}")
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


def _example_batch(height: int, width: int, inputs: frozenset[str]) -> Batch:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    mask = np.zeros((4, height, width), bool)
    for entry in range(4):
        mask[entry, height // 4 : 3 * height // 4, width // 4 + entry : 3 * width // 4] = True
    return Batch(
        image,
        mask,
        list(PROMPTS),
        [1, 2, 3, 4],
        exemplar=image[::-1].copy(),
        control=image[:, ::-1].copy() if "control" in inputs else None,
        source_prompt=list(PROMPTS),
    )


def _reordered(batch: Batch, order: list[int]) -> Batch:
    return Batch(
        batch.image[order],
        batch.mask[order],
        [batch.prompt[i] for i in order],
        [batch.seed[i] for i in order],
        exemplar=None if batch.exemplar is None else batch.exemplar[order],
        control=None if batch.control is None else batch.control[order],
        source_prompt=[batch.prompt[i] for i in order],
    )


def _with_other_mates(batch: Batch) -> Batch:
    """Return the batch with everything of all entries but the first replaced."""
    turned = _reordered(batch, [0, 3, 1, 2])
    pictures: dict[str, Any] = {}
    for name in ("image", "exemplar", "control"):
        pixels = getattr(turned, name)
        if pixels is not None:
            pictures[name] = np.concatenate([pixels[:1], 255 - pixels[1:]])
    return replace(
        turned,
        mask=np.concatenate([turned.mask[:1], ~turned.mask[1:]]),
        prompt=[turned.prompt[0], *(f"{text} {LONG_PROMPT}" for text in turned.prompt[1:])],
        seed=[turned.seed[0], *(seed + 100 for seed in turned.seed[1:])],
        **pictures,
    )
