"""Inverted images on storage, by name, from one run to the next. Knows neither networks nor what a name says.

``ADDRESS/<digest of what they were computed with>/<name>.safetensors``. A latent that is missing, damaged or out of
reach is computed again: the storage costs time, never a row.
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
    """Latents that were computed with one thing: a network, an editor's version, a kind of device."""

    def __init__(self, address: str, decides: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
        self.folder = storage.join(address, digest[:20])
        self._out_of_reach = False

    def get(self, name: str) -> Latent | None:
        """The latent of this name; None where there is none that is whole."""
        if self._out_of_reach:
            return None
        try:
            return _read(storage.read_bytes(self._address(name)))
        except ObjectMissing:
            return None
        except StorageError as error:
            self._give_up(error)
            return None

    def put(self, name: str, latent: Latent) -> None:
        """Keep a latent, over one of this name that is there."""
        if self._out_of_reach:
            return
        try:
            storage.write_bytes(self._address(name), _written(latent))
        except StorageError as error:
            self._give_up(error)

    def _address(self, name: str) -> str:
        return storage.join(self.folder, f"{name}.safetensors")

    def _give_up(self, error: StorageError) -> None:
        """Once is enough: each try waits through its retries while the device has nothing to do."""
        self._out_of_reach = True
        log.warning("latents are neither read nor kept from here on: %s", error)


def _written(latent: Latent) -> bytes:
    latent = np.ascontiguousarray(latent)
    return save({"latent": latent, "sha256": _checksum(latent)})


def _read(data: bytes) -> Latent | None:
    try:
        tensors = load(data)
        latent, checksum = tensors["latent"], tensors["sha256"]
    except (SafetensorError, KeyError, ValueError):
        return None
    return latent if np.array_equal(_checksum(latent), checksum) else None


def _checksum(latent: Latent) -> npt.NDArray[np.uint8]:
    """The format tells a short file, not a changed one."""
    return np.frombuffer(hashlib.sha256(latent.tobytes()).digest(), np.uint8)
