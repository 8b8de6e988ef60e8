"""Trains the family's pixel UNet on drawn scenes: v-prediction, AdamW, EMA, resumable."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from retouch.models.embedded.data import scene_pool, to_tensor
from retouch.models.embedded.files import save_checkpoint, save_json, save_weights
from retouch.models.embedded.scenes import SIZE
from retouch.models.pixel_unet import PixelUNet
from retouch.schema import Pixels
from torch import Tensor, nn

log = logging.getLogger(__name__)

CONFIG: Final[dict[str, Any]] = {
    "image_size": SIZE,
    "schedule": "cosine",
    "timesteps": 1000,
    "prediction": "v",
    "fold": 2,
    "unet": {
        "sample_size": 16,
        "in_channels": 12,
        "out_channels": 12,
        "block_out_channels": [64, 128, 128],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 32,
        "norm_num_groups": 16,
    },
}


@dataclass(frozen=True)
class UNetTraining:
    """Data and length of the UNet's training."""

    minutes: float = 75.0  # two CPU cores see about half a million images in it
    scenes: int = 120_000
    batch: int = 64
    learning_rate: float = 8e-4
    warmup: int = 300  # steps
    ema: float = 0.999
    seed: int = 1
    threads: int = 2  # on a CPU
    save_every: float = 180.0  # seconds


def train_unet(out: Path, work: Path, device: str, options: UNetTraining) -> None:
    """Train for ``options.minutes``, earlier runs included; weights go to ``out``, the checkpoint to ``work``."""
    torch.manual_seed(options.seed)
    images = scene_pool(options.scenes, 0, work / "scenes.npy")
    model = PixelUNet.from_config(CONFIG).to(device).to(memory_format=torch.channels_last)
    ema = deepcopy(model).requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=0.01)
    step, spent = _resume(work / "unet.ckpt", model, ema, optimizer)
    rng = np.random.default_rng((options.seed, step))
    threads = 1 if device == "cuda" else options.threads
    pool = ThreadPoolExecutor(threads)
    started = saved = time.monotonic()
    losses: list[float] = []
    while (elapsed := spent + time.monotonic() - started) < options.minutes * 60:
        rate = learning_rate(step, elapsed / (options.minutes * 60), options)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x0 = _batch(images, rng, options.batch).to(device, memory_format=torch.channels_last)
        losses.append(_step(model, optimizer, x0.split(-(-len(x0) // threads)), pool))
        step += 1
        _update(ema, model, min(options.ema, (1 + step) / (10 + step)))
        if step % 200 == 0:
            log.info("step %d images %d minutes %.1f rate %.2e loss %.4f", step, step * options.batch, elapsed / 60,
                     rate, np.mean(losses[-200:]))  # fmt: skip
        if time.monotonic() - saved > options.save_every:
            _save(out, work, (model, ema, optimizer), (step, elapsed))
            saved = time.monotonic()
    _save(out, work, (model, ema, optimizer), (step, elapsed))


def learning_rate(step: int, progress: float, options: UNetTraining) -> float:
    """Return the rate: linear warm-up, constant until 55 % of the time, then a linear decay to zero."""
    return options.learning_rate * min(1.0, (step + 1) / options.warmup, max(0.0, (1 - progress) / 0.45))


def _batch(images: Pixels, rng: np.random.Generator, size: int) -> Tensor:
    """Return random scenes, half of them mirrored: [B, 3, 32, 32] in [-1, 1]."""
    picked = images[rng.integers(len(images), size=size)]
    mirrored = np.where(rng.random(size)[:, None, None, None] < 0.5, picked[:, :, ::-1], picked)
    return to_tensor(mirrored)


def _step(
    model: PixelUNet, optimizer: torch.optim.Optimizer, parts: Sequence[Tensor], pool: ThreadPoolExecutor
) -> float:
    """Take one update and return the mean squared error of v.

    Each part of the batch is computed by one thread: threads synchronise once per step instead of once per operation.
    """
    timesteps = [_stratified(len(part), len(model.alphas_cumprod)).to(part.device) for part in parts]
    noise = [torch.randn_like(part) for part in parts]
    losses, gradients = zip(*pool.map(lambda *part: _gradient(model, *part), parts, timesteps, noise), strict=True)
    for parameter, *found in zip(model.parameters(), *gradients, strict=True):
        parameter.grad = torch.stack(found).mean(dim=0)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(np.mean(losses))


def _stratified(count: int, timesteps: int) -> Tensor:
    """Return evenly spread timesteps [B] with a common random offset: less variance than independent draws."""
    spread = (torch.arange(count) + torch.rand(1)) / count
    return (spread * timesteps).long().clamp(max=timesteps - 1)


def _gradient(model: PixelUNet, x0: Tensor, t: Tensor, eps: Tensor) -> tuple[float, tuple[Tensor, ...]]:
    """Return the mean squared error of v and its gradients."""
    if x0.device.type == "cpu":
        torch.set_num_threads(1)
    alpha = model.alphas_cumprod[t].view(-1, 1, 1, 1)
    x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps
    with torch.autocast(x0.device.type, torch.bfloat16):
        predicted = model.velocity(x_t, t)
    loss = (predicted.float() - (alpha.sqrt() * eps - (1 - alpha).sqrt() * x0)).square().mean()
    return float(loss.detach()), torch.autograd.grad(loss, list(model.parameters()))


@torch.no_grad()
def _update(ema: nn.Module, model: nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


Trained = tuple[nn.Module, nn.Module, torch.optim.Optimizer]


def _save(out: Path, work: Path, trained: Trained, at: tuple[int, float]) -> None:
    """Write weights and checkpoint; ``at`` is the step and the seconds spent."""
    model, ema, optimizer = trained
    save_json(CONFIG, out / "unet.json")
    save_weights(ema, out / "unet.safetensors")
    state = {"model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict(), "at": at}
    save_checkpoint(state, work / "unet.ckpt")


def _resume(path: Path, model: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Load an earlier state if there is one. Return its step and seconds, else (0, 0)."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    step, seconds = state["at"]
    return int(step), float(seconds)
