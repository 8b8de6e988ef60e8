"""Trains the family's autoencoder for exemplar edits on 8x8 latents: L1, squared error and a little KL.

Half of its images have mid-grey holes, because the UNet sees masked scenes.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from retouch.models.embedded.data import scene_pool, to_tensor
from retouch.models.embedded.files import save_json, save_weights
from retouch.models.embedded.scenes import SIZE
from retouch.schema import Mask, Pixels
from safetensors.torch import load_file
from torch import Tensor, nn

from embedded_models.fitting import Fit, fit

log = logging.getLogger(__name__)

VAE_NAME: Final = "exemplar_vae"
CONFIG: Final[dict[str, Any]] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [16, 32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": SIZE,
}
KL: Final = 3e-4  # weight of the mean KL: enough to keep latents near a unit normal, at little cost in sharpness


VAE_FIT: Final = Fit(steps=1800, learning_rate=2e-3, batch=32, warmup=100, decay_from=0.4, ema=0.99, seed=11)


@dataclass(frozen=True)
class VaeTraining:
    """Data and length of the autoencoder's training."""

    fit: Fit = VAE_FIT
    scenes: int = 30_000


def train_vae(out: Path, work: Path, device: str, options: VaeTraining) -> AutoencoderKL:
    """Train and save ``exemplar_vae.safetensors`` and ``.json``, the config with the latents' scale."""
    torch.manual_seed(options.fit.seed)
    images = scene_pool(options.scenes, 0, work / "vae_scenes.npy")
    model = AutoencoderKL(**CONFIG).to(device, memory_format=torch.channels_last)

    def draw(rng: np.random.Generator, size: int) -> list[Tensor]:
        return [holed(rng, images[rng.integers(len(images), size=size)])]

    def save(averaged: nn.Module) -> None:
        save_vae(averaged, out)

    trained = fit(model, draw, vae_loss, options.fit, work / "vae.ckpt", save)
    assert isinstance(trained, AutoencoderKL)
    scale = latent_scale(trained, images[:512])
    trained.register_to_config(scaling_factor=scale)
    log.info("vae: 1 / std of the latents is %.4f", scale)
    save_vae(trained, out)
    return trained


def holed(rng: np.random.Generator, images: Pixels) -> Tensor:
    """Return scenes [B, 3, 32, 32] in [-1, 1], half of them mirrored, half with a mid-grey box of 8 to 26 px."""
    x = to_tensor(np.where(rng.random(len(images))[:, None, None, None] < 0.5, images[:, :, ::-1], images))
    side = x.shape[-1]
    for image in x[: len(x) // 2]:  # views: filled in place
        wide, high = rng.integers(side // 4, int(0.8 * side), size=2)
        left, top = rng.integers(0, side - wide + 1), rng.integers(0, side - high + 1)
        image[:, top : top + high, left : left + wide] = 0.0
    return x


def vae_loss(model: AutoencoderKL, x: Tensor) -> Tensor:
    """Return mean absolute error, squared error and weighted KL of images [B, 3, S, S], summed."""
    posterior = model.encode(x.to(memory_format=torch.channels_last)).latent_dist
    mean: Tensor = posterior.mean.float()
    log_variance: Tensor = posterior.logvar.float()
    latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    error: Tensor = model.decode(latents, return_dict=False)[0].float() - x
    kl: Tensor = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return error.abs().mean() + error.square().mean() + KL * kl


@torch.no_grad()
def latent_scale(model: AutoencoderKL, images: Pixels) -> float:
    """Return 1 / standard deviation of images' latents, diffusers' ``scaling_factor``."""
    means = encode(model, images)
    return float(1 / means.std())


@torch.no_grad()
def encode(model: AutoencoderKL, images: Pixels, masks: Mask | None = None, *, drawn: bool = False) -> Tensor:
    """Return unscaled latents [N, 4, 8, 8] of images [N, 32, 32, 3], mid-grey where ``masks`` [N, 32, 32] is True.

    They are the posterior's means, or samples of it with ``drawn``.
    """
    found = []
    device = next(model.parameters()).device
    for start in range(0, len(images), 256):
        x = to_tensor(images[start : start + 256])
        if masks is not None:
            x = x.masked_fill(torch.from_numpy(masks[start : start + 256])[:, None], 0.0)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = model.encode(x.to(device, memory_format=torch.channels_last)).latent_dist
        found.append((posterior.sample() if drawn else posterior.mean).float().cpu())
    return torch.cat(found)


def save_vae(model: nn.Module, out: Path) -> None:
    """Write weights and config."""
    assert isinstance(model, AutoencoderKL)
    save_weights(model, out / f"{VAE_NAME}.safetensors")
    save_json({**CONFIG, "scaling_factor": model.config["scaling_factor"]}, out / f"{VAE_NAME}.json")


def load_vae(out: Path) -> AutoencoderKL:
    """Return the autoencoder that ``save_vae`` wrote, in float32 and eval mode."""
    model = AutoencoderKL(**json.loads((out / f"{VAE_NAME}.json").read_text()))
    model.load_state_dict({k: v.float() for k, v in load_file(out / f"{VAE_NAME}.safetensors").items()})
    return model.eval().requires_grad_(requires_grad=False)
