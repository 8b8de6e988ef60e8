"""A network compiled, one graph a batch shape. Knows no editor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from retouch.errors import ConfigError


def compiled(network: nn.Module, wanted: bool) -> nn.Module:
    """The network by torch.compile where that is wanted, else itself.

    It is compiled in the first pass, which takes minutes for a large one. Shapes are fixed, as an engine's batches are;
    a second one, where memory was short, compiles again. No CUDA graphs: they write every pass's result to the same
    memory, and PLMS keeps the last four.
    """
    if not wanted:
        return network
    made: Any = torch.compile(network, dynamic=False)
    module: nn.Module = made
    return module


def refuse_changed(values: Mapping[str, Any], loaded: bool) -> None:
    """See that a row does not ask for what was settled when the networks were loaded.

    Raises:
        ConfigError: it does.
    """
    if values.get("compile", loaded) != loaded:
        raise ConfigError("compile is settled when the networks are loaded: set it in the job's params, not in a row's")
