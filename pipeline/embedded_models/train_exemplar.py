"""Trains the family's exemplar encoder and 9-channel latent UNet (Paint by Example, sections 4.2, 4.5 and 4.6).

In two stages, like the published networks: first the encoder's image tower alone, which learns to classify shapes and
colours (the published one is CLIP's, trained on captions); then, with the tower frozen, mapper, unconditional vector
and UNet together, with the squared error of eps. So class tokens and latents are computed once, and a step costs only a
small UNet on 8x8 latents.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from retouch.diffusion.schedule import scaled_linear
from retouch.models.embedded.data import to_tensor
from retouch.models.embedded.files import save_checkpoint, save_json, save_weights
from retouch.models.embedded.scenes import COLOURS, SHAPES
from retouch.models.exemplar_encoder import ExemplarEncoder, build_encoder
from retouch.schema import Pixels
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from embedded_models.exemplar_pools import KINDS, Pairs, References, pair_pool, reference_pool
from embedded_models.fitting import Fit, fit
from embedded_models.train_vae import VAE_NAME, encode, load_vae

log = logging.getLogger(__name__)

VISION: Final[dict[str, Any]] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
ENCODER: Final[dict[str, Any]] = {"vision": VISION, "context_dim": 128, "mean": [0.5] * 3, "std": [0.5] * 3}
UNET: Final[dict[str, Any]] = {
    "sample_size": 8,
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": [80, 128],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
    "cross_attention_dim": 128,
    "norm_num_groups": 16,
}
DROP: Final = 0.2  # probability per row of the unconditional vector, as in section 4.6
OWN: Final = 0.35  # share of rows whose reference is cropped from the scene itself
# At high noise eps contains little of the image, although shape and colour are decided there. So its error is weighted
# by 1 / alpha, which makes it the error of v, up to this weight.
MAX_WEIGHT: Final = 8.0
OUTSIDE: Final = 0.3  # weight of latents outside the mask, which do not appear in an edit


TOWER_FIT: Final = Fit(steps=600, learning_rate=1e-3, batch=128, decay_from=0.3, ema=0.99, seed=12)
# 198,400 images; the judge then agreed with 98 % of single candidates of tuning rows.
UNET_FIT: Final = Fit(steps=3100, learning_rate=1e-3, batch=64, decay_from=0.6, ema=0.998, seed=13)


@dataclass(frozen=True)
class ExemplarTraining:
    """Data and length of the training."""

    tower: Fit = TOWER_FIT
    unet: Fit = UNET_FIT
    pairs: int = 50_000
    references: int = 24_000


class ExemplarNetworks(nn.Module):
    """Encoder and UNet, for one optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_encoder(VISION, ENCODER["context_dim"])
        self.unet = UNet2DConditionModel(**UNET)

    def forward(self, x: Tensor, t: Tensor, features: Tensor, dropped: Tensor) -> Tensor:
        """Return the noise [B, 4, 8, 8] in UNet inputs [B, 9, 8, 8]; ``dropped`` [B] rows ignore their class token."""
        given = self.encoder.context(features[:, None])
        context = torch.where(dropped[:, None, None], self.encoder.uncond_vector, given)
        eps: Tensor = self.unet(x, t, context, return_dict=False)[0]
        return eps


@dataclass(frozen=True)
class Examples:
    """The precomputed training examples."""

    latents: Tensor  # [N, 4, 8, 8], scaled
    masked: Tensor  # [N, 4, 8, 8], scaled, of the scenes with a mid-grey hole
    keep: Tensor  # [N, 1, 32, 32] bool, True outside the hole
    own: Tensor  # [N, 128] class tokens
    kind: Tensor  # [N]
    others: Tensor  # [24, M, 128] class tokens of drawn references, by kind

    def draw(self, rng: np.random.Generator, size: int) -> list[Tensor]:
        """Return latents, masked latents, masks and references of random rows."""
        rows = torch.from_numpy(rng.integers(len(self.latents), size=size))
        other = self.others[self.kind[rows], torch.from_numpy(rng.integers(self.others.shape[1], size=size))]
        own = torch.from_numpy(rng.random(size) < OWN)[:, None]
        return [self.latents[rows], self.masked[rows], self.keep[rows], torch.where(own, self.own[rows], other)]


def train_exemplar(out: Path, work: Path, device: str, options: ExemplarTraining) -> None:
    """Train all but the autoencoder, which must be in ``out``; weights go there, pools and states to ``work``."""
    pairs = pair_pool(options.pairs, 0, work / "pairs.npz")
    references = reference_pool(options.references, 0, work / "references.npz")
    torch.manual_seed(options.unet.seed)
    networks = ExemplarNetworks().to(device)
    train_tower(networks.encoder, pairs, references, work, options.tower)
    networks.encoder.model.requires_grad_(requires_grad=False)
    examples = prepared(networks.encoder, pairs, references, out, work, device)
    networks.unet.to(memory_format=torch.channels_last)
    alphas = torch.from_numpy(scaled_linear().alphas_cumprod).float().to(device)

    def save(averaged: nn.Module) -> None:
        assert isinstance(averaged, ExemplarNetworks)
        save_networks(averaged, out)

    def loss(model: ExemplarNetworks, *part: Tensor) -> Tensor:
        return eps_loss(model, alphas, *part)

    fit(networks, examples.draw, loss, options.unet, work / "exemplar.ckpt", save)


def train_tower(encoder: ExemplarEncoder, pairs: Pairs, references: References, work: Path, options: Fit) -> None:
    """Train the image tower to classify references; its averaged weights replace the encoder's."""
    images = np.concatenate([pairs.own, references.image])
    kinds = np.concatenate([pairs.kind, references.kind])
    net = _Classifier(encoder.model)

    def draw(rng: np.random.Generator, size: int) -> list[Tensor]:
        rows = rng.integers(len(images), size=size)
        seen = to_tensor(images[rows])
        noise = 0.1 * rng.random((size, 1, 1, 1)) * rng.normal(size=seen.shape)
        return [seen + torch.from_numpy(noise).float(), torch.from_numpy(kinds[rows])]

    trained = fit(net, draw, _classification_loss, options, work / "tower.ckpt", lambda averaged: None)
    encoder.model.load_state_dict(trained.get_submodule("tower").state_dict())


class _Classifier(nn.Module):
    """The tower with two classification heads, which are discarded after training."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.shape = nn.Linear(VISION["hidden_size"], len(SHAPES))
        self.colour = nn.Linear(VISION["hidden_size"], len(COLOURS))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.tower(pixel_values=pixels).pooler_output
        return self.shape(features), self.colour(features)


def _classification_loss(net: _Classifier, pixels: Tensor, kinds: Tensor) -> Tensor:
    """Return the cross-entropy of shape and colour, smoothed so that tokens of one kind do not collapse to a point."""
    shape, colour = net(pixels)
    by_shape = F.cross_entropy(shape.float(), kinds // len(COLOURS), label_smoothing=0.05)
    return by_shape + F.cross_entropy(colour.float(), kinds % len(COLOURS), label_smoothing=0.05)


def prepared(
    encoder: ExemplarEncoder, pairs: Pairs, references: References, out: Path, work: Path, device: str
) -> Examples:
    """Return class tokens and latents of the pools, computed once per tower and autoencoder."""
    cache, source = work / "examples.pt", _source(encoder, pairs, references, out)
    if cache.exists():
        stored = torch.load(cache, weights_only=True)
        if stored.pop("source") == source:
            return Examples(**stored)
    vae = load_vae(out).to(device, memory_format=torch.channels_last)
    scale = float(vae.config["scaling_factor"])
    order = np.argsort(references.kind, kind="stable")
    each = len(references) // len(KINDS)
    examples = {
        "latents": scale * encode(vae, pairs.target),
        "masked": scale * encode(vae, pairs.target, pairs.mask, drawn=True),  # sampled as in an edit
        "keep": torch.from_numpy(~pairs.mask)[:, None],
        "own": class_tokens(encoder, pairs.own),
        "kind": torch.from_numpy(pairs.kind),
        "others": class_tokens(encoder, references.image[order]).view(len(KINDS), each, -1),
    }
    save_checkpoint({**examples, "source": source}, cache)
    return Examples(**examples)


def _source(encoder: ExemplarEncoder, pairs: Pairs, references: References, out: Path) -> str:
    """Return a hash of all inputs of the examples."""
    found = hashlib.sha256((out / f"{VAE_NAME}.safetensors").read_bytes())
    for tensor in encoder.model.state_dict().values():
        found.update(tensor.cpu().numpy().tobytes())
    for array in (pairs.target, references.image):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


@torch.no_grad()
def class_tokens(encoder: ExemplarEncoder, images: Pixels) -> Tensor:
    """Return the tower's pooled class tokens [N, 128] of references [N, 32, 32, 3]."""
    device = encoder.uncond_vector.device
    parts = (to_tensor(images[start : start + 256]) for start in range(0, len(images), 256))
    return torch.cat([encoder.model(pixel_values=part.to(device)).pooler_output.float().cpu() for part in parts])


def eps_loss(
    model: ExemplarNetworks, alphas: Tensor, latents: Tensor, masked: Tensor, keep: Tensor, features: Tensor
) -> Tensor:
    """Return the weighted squared error of eps of one part of a batch."""
    t = stratified(len(latents), len(alphas)).to(latents.device)
    alpha = alphas[t].view(-1, 1, 1, 1)
    eps = torch.randn_like(latents)
    x_t = alpha.sqrt() * latents + (1 - alpha).sqrt() * eps
    small = small_mask(keep, latents.shape[-1])
    dropped = torch.rand(len(latents), device=latents.device) < DROP
    x = torch.cat([x_t, masked, small], dim=1).to(memory_format=torch.channels_last)
    error: Tensor = (model(x, t, features, dropped).float() - eps).square()
    weight = OUTSIDE + (1 - OUTSIDE) * (1 - small)
    return (error * weight * (1 / alpha).clamp(max=MAX_WEIGHT)).mean()


def small_mask(keep: Tensor, size: int) -> Tensor:
    """Return masks [B, 1, S, S] at latent size, 1 = keep: half bilinear as in the paper's code, half nearest."""
    whole = keep.float()
    bilinear = F.interpolate(whole, (size, size), mode="bilinear", align_corners=False)
    nearest = F.interpolate(whole, (size, size), mode="nearest")
    return torch.where(torch.rand(len(keep), 1, 1, 1, device=keep.device) < 0.5, bilinear, nearest)


def stratified(count: int, timesteps: int) -> Tensor:
    """Return evenly spread timesteps [B] with a common random offset: less variance than independent draws."""
    return ((torch.arange(count) + torch.rand(1)) / count * timesteps).long().clamp(max=timesteps - 1)


def save_networks(networks: ExemplarNetworks, out: Path) -> None:
    """Write encoder and UNet in the form that ``retouch.models.paint_by_example`` reads."""
    save_weights(networks.encoder, out / "exemplar_encoder.safetensors")
    save_json(ENCODER, out / "exemplar_encoder.json")
    save_weights(networks.unet, out / "exemplar_unet.safetensors")
    save_json({**UNET, "schedule": "scaled_linear"}, out / "exemplar_unet.json")
