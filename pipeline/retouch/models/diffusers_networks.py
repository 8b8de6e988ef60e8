"""One network of a diffusers folder, by its class of diffusers or transformers, with every weight from its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from retouch.errors import WeightsError
from retouch.models.checkpoint import reason


def load_network(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    """Return a network in eval mode, on the CPU.

    Both libraries only log which weights a file lacks, and go on with random numbers.

    Args:
        folder: with config.json and the weights, in shards or not.
        kind: a class with ``from_pretrained`` of diffusers or transformers.
        dtype: of floating weights.

    Raises:
        WeightsError: a file is missing or broken, or lacks weights.
    """
    from diffusers import ModelMixin
    from safetensors import SafetensorError

    # diffusers loads without a second copy in memory if accelerate is there, and complains if it is not.
    more = {"low_cpu_mem_usage": find_spec("accelerate") is not None} if issubclass(kind, ModelMixin) else {}
    try:
        with _no_progress_bars():
            network, info = kind.from_pretrained(
                str(folder), dtype=dtype, local_files_only=True, output_loading_info=True, **more
            )
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        raise WeightsError(f"{folder} cannot be read: {reason(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"{folder} lacks {len(missing)} weights (first: {missing[0]}); copy the whole folder")
    return network.eval()


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar per component into a worker's log."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
