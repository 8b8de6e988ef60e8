"""A network run in half precision, float32 at both ends. Knows no editor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from retouch.diffusion.sampling import Network
from retouch.editors.blended_diffusion.sampler import ImageEncoder

Precision = Literal["float32", "bfloat16", "float16"]


def in_precision(network: Network, precision: Precision, device: str) -> Network:
    """The network under autocast; itself where it is to run in float32."""
    if precision == "float32":
        return network

    def cast(*inputs: Tensor) -> Tensor:
        with torch.autocast(torch.device(device).type, getattr(torch, precision)):
            return network(*inputs).float()

    return cast


def encoder_in_precision(clip: ImageEncoder, precision: Precision, device: str) -> ImageEncoder:
    """CLIP whose image tower runs under autocast; itself where it is to run in float32."""
    return clip if precision == "float32" else _Encoder(clip, precision, device)


@dataclass(frozen=True)
class _Encoder:
    clip: ImageEncoder
    precision: Precision
    device: str

    @property
    def image_size(self) -> int:
        return self.clip.image_size

    def encode_image(self, x: Tensor, normalise: bool = True) -> Tensor:
        with torch.autocast(torch.device(self.device).type, getattr(torch, self.precision)):
            return self.clip.encode_image(x, normalise)
