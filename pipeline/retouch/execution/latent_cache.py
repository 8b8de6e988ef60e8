"""Cache of inverted images on storage, shared by runs.

``ADDRESS/<digest of the cache's identity>/<name>.safetensors``. A latent that is missing, damaged or unreachable is
computed again: a broken cache costs time and fails no row.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from retouch import storage
from retouch.errors import ObjectMissing, StorageError

log = logging.getLogger(__name__)

Latent = npt.NDArray[np.float32]


class StoredLatents:
    """Cache of the latents of one identity: a network, an editor's version, a kind of device."""

    def __init__(self, address: str, identity: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.folder = storage.join(address, digest[:20])
        self._disabled = False

    def get(self, name: str) -> Latent | None:
        """Return the latent of this name; None if it is missing or damaged."""
        if self._disabled:
            return None
        try:
            return _decode(storage.read_bytes(self._address(name)))
        except ObjectMissing:
            return None
        except StorageError as error:
            self._disable(error)
            return None

    def put(self, name: str, latent: Latent) -> None:
        """Write a latent, replacing one of this name."""
        if self._disabled:
            return
        try:
            storage.write_bytes(self._address(name), _encode(latent))
        except StorageError as error:
            self._disable(error)

    def _address(self, name: str) -> str:
        return storage.join(self.folder, f"{name}.safetensors")

    def _disable(self, error: StorageError) -> None:
        """Stop using the cache: each further access would wait through its retries while the device idles."""
        self._disabled = True
        log.warning("latent cache disabled for the rest of this process: %s", error)


def _encode(latent: Latent) -> bytes:
    latent = np.ascontiguousarray(latent)
    return save({"latent": latent, "sha256": _checksum(latent)})


def _decode(data: bytes) -> Latent | None:
    try:
        tensors = load(data)
        latent, checksum = tensors["latent"], tensors["sha256"]
    except (SafetensorError, KeyError, ValueError):
        return None
    return latent if np.array_equal(_checksum(latent), checksum) else None


def _checksum(latent: Latent) -> npt.NDArray[np.uint8]:
    """Return the sha256 of the values. The format itself detects a truncated file, but no changed bytes."""
    return np.frombuffer(hashlib.sha256(latent.tobytes()).digest(), np.uint8)
