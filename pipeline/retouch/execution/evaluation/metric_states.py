"""Files of set metrics' states: arrays, and in the metadata which metric and images they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from retouch import storage
from retouch.errors import ConfigError, ObjectMissing

NOTE: Final = "retouch"  # key in the file's metadata
_HEADER: Final = 8  # bytes at the start of a safetensors file with the length of its header


@dataclass(frozen=True)
class StoredState:
    """A set metric's state over some images."""

    arrays: Mapping[str, npt.NDArray[Any]]  # empty if no image was counted
    images: int  # that were counted
    id: Mapping[str, Any]  # of the metric; states with different ids cannot be merged
    failed: Mapping[str, str] = field(default_factory=dict)  # key to the reason why an image was not counted


def write(uri: str, state: StoredState) -> None:
    """Write a state as one file, whole or not at all."""
    note = json.dumps({"images": state.images, "id": state.id, "failed": dict(state.failed)}, sort_keys=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in state.arrays.items()}
    storage.write_bytes(uri, save(arrays, {NOTE: note}))


def read(uri: str) -> StoredState:
    """Return a state that ``write`` wrote, or arrays from elsewhere, which have no id and no count.

    Raises:
        ConfigError: the file does not exist, or is not a safetensors file.
    """
    try:
        data = storage.read_bytes(uri)
        note = _metadata(data).get(NOTE)
        facts: dict[str, Any] = json.loads(note) if note else {"images": 0, "id": {}, "failed": {}}
        return StoredState(load(data), facts["images"], facts["id"], facts["failed"])
    except ObjectMissing:
        raise ConfigError(
            f"no state at {uri}; name a .safetensors file from an evaluation's reference/ folder"
        ) from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(f"{uri} holds no state of a metric: {' '.join(str(error).split())[:120]}") from None


def digest(*parts: Any) -> str:
    """Return 12 hex digits of JSON values. Files are named by what determines them, so an existing file is valid."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def merge_counts(parts: Sequence[StoredState]) -> tuple[int, dict[str, str]]:
    """Return the number of images and the failures of several states together."""
    failed = {key: reason for part in parts for key, reason in part.failed.items()}
    return sum(part.images for part in parts), failed


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:_HEADER], "little")
    header: dict[str, Any] = json.loads(data[_HEADER : _HEADER + length])
    found: dict[str, str] = header.get("__metadata__", {})
    return found
