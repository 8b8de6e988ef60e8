"""A small pixel-space noise predictor: v-prediction inside, eps at the interface.

diffusers' UNet works on 2x2 pixels folded into channels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from retouch.errors import WeightsError


def cosine_alphas_cumprod(timesteps: int) -> Tensor:
    """Return the cosine schedule's cumulative products (improved DDPM, eq. 17), betas at most 0.999; [T] float64."""
    at = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((at + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0)


class PixelUNet(nn.Module):
    """A network that predicts eps; its configuration is the file ``unet.json``."""

    alphas_cumprod: Tensor

    def __init__(self, unet: Mapping[str, Any], timesteps: int = 1000, fold: int = 2) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        self.fold = fold
        self.unet = UNet2DModel(**unet)
        self.register_buffer("alphas_cumprod", cosine_alphas_cumprod(timesteps).float(), persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build with random weights.

        Raises:
            WeightsError: a schedule or prediction other than cosine and v.
        """
        if (config["schedule"], config["prediction"]) != ("cosine", "v"):
            raise WeightsError(f"pixel UNet: schedule {config['schedule']!r} with prediction {config['prediction']!r}"
                               " is not known; known: 'cosine' with 'v'")  # fmt: skip
        return cls(config["unet"], config["timesteps"], config["fold"])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return eps [B, 3, S, S] at x_t [B, 3, S, S] and t [B] on the original scale 0..T-1, float or int."""
        alpha = self.alphas_cumprod[t.round().long()].view(-1, 1, 1, 1)
        return alpha.sqrt() * self.velocity(x, t).float() + (1 - alpha).sqrt() * x

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the network's own v = sqrt(alpha) eps - sqrt(1 - alpha) x_0, [B, 3, S, S]."""
        folded = self.unet(F.pixel_unshuffle(x, self.fold), t, return_dict=False)[0]
        return F.pixel_shuffle(folded, self.fold)


def load_pixel_unet(path: Path) -> tuple[PixelUNet, dict[str, Any]]:
    """Read a ``.safetensors`` file and its ``.json`` sidecar; float32, eval mode, frozen weights.

    Raises:
        WeightsError: a file is missing, broken or of another architecture.
    """
    try:
        config: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        model = PixelUNet.from_config(config)
        weights = load_file(path)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a pixel UNet: {str(error).splitlines()[0]}") from error
    return model.eval().requires_grad_(requires_grad=False), config
