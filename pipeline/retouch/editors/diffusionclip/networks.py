"""Cache of fine-tuned copies of one network, by role or file, loaded at first use."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from retouch.editors.runtime import compiled
from retouch.errors import WeightsError
from retouch.models.unet import Network, load_unet

SOURCE = "unet"  # role of the network that the others are copies of


class TunedNetworks:
    """The source network, and the tuned networks used last."""

    def __init__(self, weights: Mapping[str, str], device: str, keep: int, compile_networks: bool = False) -> None:
        if SOURCE not in weights:
            raise WeightsError(f"no weights for {SOURCE}, the source network: name them in the job")
        self._weights, self._device, self._max, self._compile = weights, device, keep, compile_networks
        self._kept: OrderedDict[str, Network] = OrderedDict()  # by file
        self.source = self._load(weights[SOURCE])

    def file(self, name: str, hint: str = "or give the row a checkpoint") -> str:
        """Return the local file of a role, or an absolute path itself.

        Raises:
            WeightsError: it is neither; ``hint`` names another fix.
        """
        if name in self._weights:
            return self._weights[name]
        if os.path.isabs(name) and os.path.isfile(name):
            return name
        roles = ", ".join(sorted(self._weights))
        raise WeightsError(f"no weights for {name!r}: the job names {roles}; add {name!r} to editor.weights, {hint}")

    def get(self, names: Sequence[str]) -> list[Network]:
        """Return networks by role or absolute path; the least recently used ones are dropped.

        Raises:
            WeightsError: no such role or file, or not a copy of the source network.
        """
        networks = [self._one(self.file(name)) for name in names]
        while len(self._kept) > max(self._max, len(names)):
            self._kept.popitem(last=False)
        return networks

    def _one(self, path: str) -> Network:
        if path not in self._kept:
            network = self._load(path)
            if _traits(network) != _traits(self.source):
                raise WeightsError(
                    f"{path} is no fine-tuned copy of the source network: "
                    f"{_traits(network)}, where the source has {_traits(self.source)}"
                )
            self._kept[path] = network
        self._kept.move_to_end(path)
        return self._kept[path]

    def _load(self, path: str) -> Network:
        network = load_unet(path, self._device)
        if self._device.startswith("cuda"):
            network.module.to(memory_format=torch.channels_last)
        return replace(network, module=compiled(network.module, self._compile))


def _traits(network: Network) -> str:
    """Describe what two networks must share to generate from each other's latents."""
    sigma = "a learned variance" if network.learn_sigma else "no learned variance"
    return f"{network.image_size} px, schedule {network.schedule}, {sigma}"
