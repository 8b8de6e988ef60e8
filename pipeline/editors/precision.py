"""A network run in half precision, float32 at both ends. Knows no editor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pipeline.diffusion.sampling import Network

Precision = Literal["float32", "bfloat16", "float16"]


def in_precision(network: Network, precision: Precision, device: str) -> Network:
    """The network under autocast; itself where it is to run in float32."""
    if precision == "float32":
        return network

    def cast(*inputs: Tensor) -> Tensor:
        with torch.autocast(torch.device(device).type, getattr(torch, precision)):
            return network(*inputs).float()

    return cast
