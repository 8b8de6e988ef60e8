"""Checkpoint files to state dicts, and state dicts into modules; anything unexpected is an error."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from retouch.errors import WeightsError
from retouch.models.weights.diffusers_folder import shard_names


def read_state_dict(path: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU, in the file's dtypes.

    Args:
        path: ``.safetensors``, a torch pickle of a state dict, flat or under the key ``state_dict``, or the
            ``.index.json`` next to shards of either. Pickles are opened with torch's restricted unpickler: code in
            them is refused and never run.

    Raises:
        WeightsError: the file is missing, truncated, unsafe, or holds something other than named tensors.
    """
    if not Path(path).is_file():
        raise WeightsError(f"no checkpoint at {path}: no such file")
    if path.endswith(".index.json"):
        shards = (read_state_dict(str(Path(path).with_name(name))) for name in shard_names(Path(path)))
        return {name: tensor for shard in shards for name, tensor in shard.items()}
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    found = _read_pickle(path)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    tensors = dict(found) if isinstance(found, Mapping) else {}
    if not tensors or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()):
        raise WeightsError(f"{path} holds no state dict: expected names and tensors, flat or under 'state_dict'")
    return tensors


def read_state(source: bytes | Path, name: str = "") -> dict[str, Any]:
    """Return a training state as ``torch.save`` wrote it: tensors, numbers and texts by name, on the CPU.

    Args:
        source: a file, or its bytes; opened with torch's restricted unpickler, like any checkpoint.
        name: the file, for the error.

    Raises:
        WeightsError: it is truncated, unsafe, or holds something else.
    """
    name = name or str(source)
    try:
        found = _unpickled(io.BytesIO(source) if isinstance(source, bytes) else source)
    except _NotTensors as error:
        raise WeightsError(f"{name} was not opened: {error}; delete it to begin again") from error
    except _UNREADABLE as error:
        raise WeightsError(f"{name} holds no whole state ({reason(error)}); delete it to begin again") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{name} holds no training state; delete it to begin again")
    return found


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: str, what: str) -> None:
    """Put every tensor of ``state`` into ``module``, which may live on the meta device: nothing missing, nothing left.

    Floating tensors become float32 (a shipped file may be float16 for its size alone).

    Args:
        path: the file, for the error.
        what: the architecture in words, for the error.

    Raises:
        WeightsError: a name or a shape differs.
    """
    if problem := difference({k: tuple(v.shape) for k, v in module.state_dict().items()}, state):
        raise WeightsError(f"{path} is not {what}: {problem}")
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, assign=True)


def difference(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> str | None:
    """Return how a state dict differs from the expected names and shapes, in words; None if it does not."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [n for n, shape in expected.items() if n in state and tuple(state[n].shape) != shape]
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing (first: {missing[0]})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected (first: {unexpected[0]})")
    if reshaped:
        name = reshaped[0]
        shapes = f"{tuple(state[name].shape)} for {expected[name]}"
        parts.append(f"{len(reshaped)} of another shape (first: {name} {shapes})")
    return ", ".join(parts) or None


def reason(error: Exception) -> str:
    """Return the first sentence of another library's error, to be part of a message."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0][:120]


def _read_safetensors(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_pickle(path: str) -> object:
    try:
        return _unpickled(path)
    except _NotTensors as error:
        raise WeightsError(f"{path} was not opened: {error}; save the state dict as .safetensors") from error
    except _UNREADABLE as error:
        if "TorchScript" in str(error):
            raise WeightsError(f"{path} is a TorchScript archive, not a state dict") from error
        raise _damaged(path, error) from error


class _NotTensors(Exception):
    """A pickle asks for more than tensors and plain values; the text names what."""


_UNREADABLE: Final = (RuntimeError, EOFError, ValueError, KeyError, OSError)  # what torch raises at a damaged file


def _unpickled(source: str | Path | io.BytesIO) -> object:
    """Open a pickle of unknown origin; nothing else in the package does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are hints to the file's author; what matters is raised
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        what = f"its pickle calls {code[1]}" if code else "its pickle is more than tensors by name"
        raise _NotTensors(what) from error


def _damaged(path: str, error: Exception) -> WeightsError:
    size = Path(path).stat().st_size
    return WeightsError(f"{path} is truncated or no checkpoint ({size:,} bytes; {reason(error)}); fetch it again")
