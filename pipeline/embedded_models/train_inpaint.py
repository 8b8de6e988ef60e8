"""Trains the text-to-latent networks on the latents of the family's autoencoder, with the squared error of v.

First the 9-channel inpainting UNet together with its text encoder; a tenth of its examples are wholly masked and
captioned as scenes. Then the 4-channel UNet, which starts from the first one and learns whole scenes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from retouch.diffusion.schedule import scaled_linear
from retouch.models.embedded.files import save_checkpoint
from torch import Tensor

from embedded_models.captioned import Captioned, captioned_pool
from embedded_models.captions import MAX_TOKENS, tokenizer
from embedded_models.fitting import Fit, fit
from embedded_models.text_to_latent import CONDITIONS, LATENTS, SIDE, TextToLatent, save_folder, without_mask
from embedded_models.train_exemplar import stratified
from embedded_models.train_vae import VAE_NAME, encode, load_vae

log = logging.getLogger(__name__)

INPAINT_NAME: Final = "inpaint"
TEXT_TO_IMAGE_NAME: Final = "text_to_image"
DROP: Final = 0.1  # probability per row of the empty prompt, for classifier-free guidance
WHOLE: Final = 0.1  # share of the inpainting examples that are masked all over
OUTSIDE: Final = 0.3  # weight of latents outside the mask, which do not appear in an edit

INPAINT_FIT: Final = Fit(steps=3500, learning_rate=1.5e-3, batch=64, decay_from=0.5, ema=0.998, seed=21)
TEXT_TO_IMAGE_FIT: Final = Fit(steps=3500, learning_rate=1e-3, batch=64, decay_from=0.5, ema=0.998, seed=22)


@dataclass(frozen=True)
class InpaintTraining:
    """Data and length of both trainings."""

    inpaint: Fit = INPAINT_FIT
    text_to_image: Fit = TEXT_TO_IMAGE_FIT
    examples: int = 40_000
    workers: int = 2  # processes that draw


@dataclass(frozen=True)
class Examples:
    """The precomputed training examples."""

    pool: Captioned
    latents: Tensor  # [N, 4, 8, 8], scaled
    masked: Tensor  # [N, 4, 8, 8], scaled, of the images with a mid-grey hole
    grey: Tensor  # [4, 8, 8], scaled, of an image that is mid-grey all over

    @property
    def mask(self) -> Tensor:
        """Masks [N, 1, 8, 8] at the latents' size as diffusers makes them (nearest), 1 = edit."""
        step = self.pool.mask.shape[-1] // SIDE
        return torch.from_numpy(self.pool.mask[:, None, ::step, ::step]).float()


def train_inpaint(family: Path, work: Path, device: str, options: InpaintTraining) -> None:
    """Train and save the 9-channel folder next to ``family``, whose autoencoder it takes; states go to ``work``."""
    examples, vae = prepared(family, work, device, options)
    torch.manual_seed(options.inpaint.seed)
    networks = TextToLatent(LATENTS + CONDITIONS).to(device)
    networks.unet.to(memory_format=torch.channels_last)
    fit(
        networks,
        inpaint_batches(examples),
        _loss(device),
        options.inpaint,
        work / f"{INPAINT_NAME}.ckpt",
        lambda averaged: save_folder(averaged, vae, family.with_name(INPAINT_NAME)),
    )


def train_text_to_image(family: Path, work: Path, device: str, options: InpaintTraining) -> None:
    """Train and save the 4-channel folder next to ``family``, from the state of ``train_inpaint`` in ``work``."""
    examples, vae = prepared(family, work, device, options)
    first = TextToLatent(LATENTS + CONDITIONS)
    first.load_state_dict(torch.load(work / f"{INPAINT_NAME}.ckpt", weights_only=True)["ema"])
    networks = without_mask(first, examples.grey).to(device)
    networks.unet.to(memory_format=torch.channels_last)
    fit(
        networks,
        scene_batches(examples),
        _loss(device),
        options.text_to_image,
        work / f"{TEXT_TO_IMAGE_NAME}.ckpt",
        lambda averaged: save_folder(averaged, vae, family.with_name(TEXT_TO_IMAGE_NAME)),
    )


def inpaint_batches(examples: Examples) -> Callable[[np.random.Generator, int], Sequence[Tensor]]:
    """Return a function that draws latents, captions' tokens, and the UNet's conditions [B, 5, 8, 8]."""
    tokens, mask, pool = tokenizer(), examples.mask, examples.pool
    everywhere = torch.cat([torch.ones(1, SIDE, SIDE), examples.grey])

    def draw(rng: np.random.Generator, size: int) -> list[Tensor]:
        rows = rng.integers(len(pool), size=size)
        whole = (rng.random(size) < WHOLE) & pool.whole[rows]
        texts = [
            pool.scene_caption(rng, row) if full else pool.place_caption(rng, row)
            for row, full in zip(rows, whole, strict=True)
        ]
        at = torch.from_numpy(rows)
        conditions = torch.cat([mask[at], examples.masked[at]], dim=1)
        conditions[torch.from_numpy(whole)] = everywhere
        return [examples.latents[at], _ids(tokens, _dropped(rng, texts)), conditions]

    return draw


def scene_batches(examples: Examples) -> Callable[[np.random.Generator, int], Sequence[Tensor]]:
    """Return a function that draws latents of whole scenes and captions' tokens."""
    tokens, pool = tokenizer(), examples.pool
    scenes = np.flatnonzero(pool.whole)

    def draw(rng: np.random.Generator, size: int) -> list[Tensor]:
        rows = rng.choice(scenes, size=size)
        texts = [pool.scene_caption(rng, row) for row in rows]
        return [examples.latents[torch.from_numpy(rows)], _ids(tokens, _dropped(rng, texts))]

    return draw


def v_loss(model: TextToLatent, alphas: Tensor, latents: Tensor, ids: Tensor, conditions: Tensor | None) -> Tensor:
    """Return the squared error of v of one part of a batch; less weight outside the mask, if there are conditions."""
    t = stratified(len(latents), len(alphas)).to(latents.device)
    alpha = alphas[t].view(-1, 1, 1, 1)
    eps = torch.randn_like(latents)
    x = alpha.sqrt() * latents + (1 - alpha).sqrt() * eps
    v = alpha.sqrt() * eps - (1 - alpha).sqrt() * latents
    if conditions is not None:
        x = torch.cat([x, conditions], dim=1)
    error: Tensor = (model(x.to(memory_format=torch.channels_last), t, ids).float() - v).square()
    if conditions is None:
        return error.mean()
    return (error * (OUTSIDE + (1 - OUTSIDE) * conditions[:, :1])).mean()


def prepared(family: Path, work: Path, device: str, options: InpaintTraining) -> tuple[Examples, AutoencoderKL]:
    """Return pool and latents, computed once per autoencoder and pool, and the autoencoder."""
    pool = captioned_pool(options.examples, 0, work / "captioned.npz", options.workers)
    vae = load_vae(family)
    cache, source = work / "captioned.pt", _source(pool, family)
    if cache.exists():
        stored = torch.load(cache, weights_only=True)
        if stored.pop("source") == source:
            return Examples(pool, **stored), vae
    scale = float(vae.config["scaling_factor"])
    network = load_vae(family).to(device, memory_format=torch.channels_last)
    grey = np.full((1, *pool.image.shape[1:]), 127, dtype=np.uint8)
    everywhere = np.ones((1, *pool.mask.shape[1:]), dtype=bool)
    found = {
        "latents": scale * encode(network, pool.image),
        "masked": scale * encode(network, pool.image, pool.mask, drawn=True),  # sampled as in an edit
        "grey": scale * encode(network, grey, everywhere)[0],
    }
    save_checkpoint({**found, "source": source}, cache)
    return Examples(pool, **found), vae


def _loss(device: str) -> Callable[..., Tensor]:
    alphas = torch.from_numpy(scaled_linear().alphas_cumprod).float().to(device)

    def loss(model: TextToLatent, latents: Tensor, ids: Tensor, conditions: Tensor | None = None) -> Tensor:
        return v_loss(model, alphas, latents, ids, conditions)

    return loss


def _dropped(rng: np.random.Generator, texts: Sequence[str]) -> list[str]:
    return ["" if dropped else text for text, dropped in zip(texts, rng.random(len(texts)) < DROP, strict=True)]


def _ids(tokens: Any, texts: Sequence[str]) -> Tensor:
    found = tokens(list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: Tensor = found.input_ids
    return ids


def _source(pool: Captioned, family: Path) -> str:
    """Return a hash of all inputs of the latents."""
    found = hashlib.sha256((family / f"{VAE_NAME}.safetensors").read_bytes())
    for array in (pool.image, pool.mask):
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
