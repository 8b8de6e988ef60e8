"""The device of this process, and its name as price tables have it."""

from __future__ import annotations

from typing import Final

CPU: Final = "cpu"


def best_device() -> str:
    """Return ``cuda`` if torch sees a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else CPU


def name_of(device: str) -> str:
    """Return the maker's name of a GPU, ``NVIDIA H100 80GB HBM3``; ``cpu`` for a core.

    Args:
        device: as torch takes it: ``cuda``, ``cuda:1``, ``cpu``.
    """
    if device == CPU:
        return CPU
    import torch

    return torch.cuda.get_device_name(device)
