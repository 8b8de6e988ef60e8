"""What a set metric keeps of a shard, as a file: arrays and a note of what they are. Knows no metric."""

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

NOTE: Final = "retouch"  # the entry of the file's metadata
_HEADER: Final = 8  # bytes of a safetensors file that give its header's length


@dataclass(frozen=True)
class Kept:
    """The state of some images, and which of them could not be counted."""

    state: Mapping[str, npt.NDArray[Any]]  # empty where no image could be
    images: int
    id: Mapping[str, Any]  # of the metric; states of another id do not go together
    failed: Mapping[str, str] = field(default_factory=dict)  # key to reason


def write(uri: str, kept: Kept) -> None:
    """Put a state in place whole."""
    note = json.dumps({"images": kept.images, "id": kept.id, "failed": dict(kept.failed)}, sort_keys=True)
    arrays = {name: np.ascontiguousarray(array) for name, array in kept.state.items()}
    storage.write_bytes(uri, save(arrays, {NOTE: note}))


def read(uri: str) -> Kept:
    """A state that ``write`` put there, or arrays that somebody else made: those have no id and no count.

    Raises:
        ConfigError: there is no such file, or it is no safetensors file.
    """
    try:
        data = storage.read_bytes(uri)
        note = _metadata(data).get(NOTE)
        facts: dict[str, Any] = json.loads(note) if note else {"images": 0, "id": {}, "failed": {}}
        return Kept(load(data), facts["images"], facts["id"], facts["failed"])
    except ObjectMissing:
        raise ConfigError(f"no state at {uri}; name a .safetensors file that an evaluation kept") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(f"{uri} holds no state of a metric: {' '.join(str(error).split())[:120]}") from None


def digest(*parts: Any) -> str:
    """12 hex digits of JSON values: names what decides a state, so that a file of that name need not be doubted."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def merge_notes(parts: Sequence[Kept]) -> tuple[int, dict[str, str]]:
    """Images and failures of several states together."""
    failed = {key: reason for part in parts for key, reason in part.failed.items()}
    return sum(part.images for part in parts), failed


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:_HEADER], "little")
    header: dict[str, Any] = json.loads(data[_HEADER : _HEADER + length])
    found: dict[str, str] = header.get("__metadata__", {})
    return found
