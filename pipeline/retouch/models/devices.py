"""Which device this process has, and its name as price tables have it. Knows no cluster."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

CPU: Final = "cpu"


def best_device() -> str:
    """``cuda`` where torch sees a GPU, else ``cpu``.

    Where nothing could be seen torch is not asked, since importing it takes seconds and 200 MB.
    """
    if "torch" not in sys.modules and sys.platform == "linux" and not _may_be_seen():
        return CPU
    import torch

    return "cuda" if torch.cuda.is_available() else CPU


def _may_be_seen() -> bool:
    """Whether NVIDIA's driver counts a device, or AMD's is there."""
    if os.path.exists("/dev/kfd"):
        return True
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except (OSError, AttributeError):  # no driver, or none of NVIDIA's
        return False


def name_of(device: str) -> str:
    """The maker's name of a GPU, ``NVIDIA H100 80GB HBM3``; ``cpu`` of a core.

    Args:
        device: as torch takes it: ``cuda``, ``cuda:1``, ``cpu``.
    """
    if device == CPU:
        return CPU
    import torch

    return torch.cuda.get_device_name(device)
