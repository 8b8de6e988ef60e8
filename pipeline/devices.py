"""Names of devices, as price tables have them. Knows no cluster."""

from __future__ import annotations

from typing import Final

CPU: Final = "cpu"


def name_of(device: str) -> str:
    """The maker's name of a GPU, ``NVIDIA H100 80GB HBM3``; ``cpu`` of a core.

    Args:
        device: as torch takes it: ``cuda``, ``cuda:1``, ``cpu``.
    """
    if device == CPU:
        return CPU
    import torch

    return torch.cuda.get_device_name(device)
