"""Blended Latent Diffusion on tensors: DDIM in the autoencoder's latents, blended with the noised source.

Avrahami, Fried, Lischinski 2023, algorithm 1. Images are float [-1, 1], NCHW; a mask's 1 is edited. Entries of a batch
share the timesteps and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.guidance import cosine_distance
from retouch.diffusion.noise import Draws
from retouch.diffusion.sampling import Network, predict_x0, q_sample
from retouch.diffusion.schedule import Schedule, from_betas
from retouch.editors.blended_latent.params import ResolvedParams
from retouch.editors.runtime import ImageEncoder, in_precision
from retouch.errors import ConfigError
from retouch.models.stable_diffusion import StableDiffusion

Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # (x_t, t) -> x0, eps


@dataclass(frozen=True)
class Condition:
    """What the UNet reads besides x_t: of B entries, or of their unconditional halves [B], then the entries [B]."""

    context: Tensor  # [B or 2B,L,D]
    added: Mapping[str, Tensor] | None = None  # SDXL: text_embeds [.,P], time_ids [.,6]


@dataclass(frozen=True)
class Edited:
    """Result of an edit."""

    image: Tensor  # [B,3,S,S], about [-1, 1], through the autoencoder everywhere
    latent: Tensor  # [B,4,h,w], scaled, whose decoding it is


def edit(
    networks: StableDiffusion,
    source: Tensor,
    mask: Tensor,
    condition: Condition,
    params: ResolvedParams,
    draws: Draws,
    record: Callable[[Tensor, int], None] | None = None,
) -> Edited:
    """Return the source with the condition's content in the mask.

    Args:
        networks: of a diffusers folder.
        source: [B,3,S,S] in [-1, 1].
        mask: [B,1,S,S], 1 = edit.
        condition: of 2B entries unless ``params.guidance_scale`` is 1.
        params: the parameters.
        draws: streams ``posterior``, ``x``, ``blend`` and ``pixel``.
        record: called with each x [B,4,h,w] that the UNet sees, and its t; at the end with the sample and its level.

    Raises:
        ConfigError: there are more steps than the schedule has.
    """
    schedule, path = from_betas(networks.betas), path_of(networks, params)
    blending = _blending(networks, schedule, source, mask, params, draws)
    predict = predictor(networks, schedule, condition, params)
    x = blending.start(path[0])
    steps = len(path) - 1
    for number, (t, t_next) in enumerate(pairwise(path)):
        if params.blend == "before":
            x = blending.latents(x, number, t)
        if record is not None:
            record(x, t)
        x0, eps = predict(x, t)
        clean_next = -1 if number == steps - 1 else t_next  # the last blend needs no noise
        if number >= steps - round(params.pixel_blending * steps):
            x = blending.pixels(x0, clean_next)
        else:
            x = ddim_step(schedule, x0, eps, t_next)
        if params.blend == "after":
            x = blending.latents(x, number, t if params.renoise == "t" else clean_next)
    if record is not None:
        record(x, path[-1])
    return Edited(networks.decode(x), x)


def path_of(networks: StableDiffusion, params: ResolvedParams) -> list[int]:
    """Return the timesteps that are taken, downwards, and the level where they end: at least one step.

    Raises:
        ConfigError: there are more steps than the schedule has.
    """
    if params.steps > len(networks.betas):
        raise ConfigError(f"steps is {params.steps}; the network's schedule has {len(networks.betas)}")
    return networks.timesteps(params.steps)[int(params.steps * params.skip) :]


def predictor(networks: StableDiffusion, schedule: Schedule, condition: Condition, params: ResolvedParams) -> Predict:
    """Return the guided prediction of x0 and eps, with one pass of twice the batch; of the batch's size at scale 1."""
    scale = params.guidance_scale
    added = None if condition.added is None else dict(condition.added)

    def forward(x: Tensor, t: Tensor) -> Tensor:
        predicted: Tensor = networks.unet(x, t, condition.context, added_cond_kwargs=added, return_dict=False)[0]
        return predicted

    network: Network = in_precision(forward, params.precision, str(condition.context.device))

    def predict(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        given = x if scale == 1 else torch.cat([x, x])
        out = network(given, torch.full((len(given),), t, device=x.device))  # filled on the device: a copy would wait
        if scale != 1:
            uncond, cond = out.chunk(2)
            out = uncond + scale * (cond - uncond)
        return x0_and_eps(schedule, x, t, out, networks.prediction)

    return predict


def x0_and_eps(
    schedule: Schedule, x_t: Tensor, t: int, out: Tensor, prediction: Literal["epsilon", "v_prediction"]
) -> tuple[Tensor, Tensor]:
    """Return the clean latent and the noise that a prediction at x_t means (v: Salimans and Ho 2022, appendix D)."""
    if prediction == "epsilon":
        return predict_x0(schedule, x_t, t, out), out
    signal, noise = _levels(schedule, t)
    return signal * x_t - noise * out, signal * out + noise * x_t


def ddim_step(schedule: Schedule, x0: Tensor, eps: Tensor, t_next: int) -> Tensor:
    """Return x at level t_next, -1 for the clean latent (Song et al. 2021, eq. 12, eta 0)."""
    signal, noise = _levels(schedule, t_next)
    return signal * x0 + noise * eps


def _levels(schedule: Schedule, t: int) -> tuple[float, float]:
    """Return the factors of signal and noise at t; -1 is clean."""
    level = 1.0 if t < 0 else float(schedule.alphas_cumprod[t])
    return sqrt(level), sqrt(1 - level)


@dataclass(frozen=True)
class _Blending:
    """The source at every noise level, and where it stays."""

    networks: StableDiffusion
    schedule: Schedule
    source: Tensor  # [B,3,S,S]
    mask: Tensor  # [B,1,S,S]
    clean: Tensor  # [B,4,h,w], the source's latent
    masks: Sequence[Tensor]  # of [B,1,h,w], in the order of the steps
    steps_per_mask: int
    params: ResolvedParams
    draws: Draws
    first: Tensor = field(repr=False)  # [B,4,h,w], the noise of the start

    def start(self, t: int) -> Tensor:
        """Return the first x."""
        return self.first if self.params.start == "noise" else self._noised(self.clean, t, self.first)

    def latents(self, x: Tensor, number: int, t: int) -> Tensor:
        """Return x inside the mask of this step; outside, the source at level t, -1 for the clean one."""
        noise = self.draws.normal("blend", self.clean.shape[1:]) if self.params.fresh_noise else self.first
        return blended(x, self._noised(self.clean, t, noise), self.masks[number // self.steps_per_mask])

    def pixels(self, x0: Tensor, t_next: int) -> Tensor:
        """Return x at level t_next, from the predicted image with the source's pixels pasted outside the mask."""
        image = blended(self.networks.decode(x0), self.source, self.mask)
        noise = self.draws.normal("pixel", self.clean.shape[1:])
        return self._noised(self.networks.encode(image), t_next, noise)

    def _noised(self, clean: Tensor, t: int, noise: Tensor) -> Tensor:
        return clean if t < 0 else q_sample(self.schedule, clean, t, noise)


def _blending(
    networks: StableDiffusion, schedule: Schedule, source: Tensor, mask: Tensor, params: ResolvedParams, draws: Draws
) -> _Blending:
    size = networks.latent_size
    shape = (4, size, size)
    clean = networks.encode(source, draws.normal("posterior", shape) if params.posterior == "sample" else None)
    masks = shrinking(latent_mask(mask, size, params.mask_resize), params.shrink)
    steps = len(path_of(networks, params)) - 1
    first = draws.normal("x", shape)
    return _Blending(
        networks, schedule, source, mask, clean, masks, steps_per_mask(steps, len(masks)), params, draws, first
    )


def blended(x: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Return x where the mask is 1, the source where it is 0."""
    return x * mask + source * (1 - mask)


def latent_mask(mask: Tensor, size: int, how: Literal["nearest", "cover"]) -> Tensor:
    """Resize a mask [B,1,S,S] to [B,1,size,size].

    Args:
        mask: 0 or 1.
        size: of the latents, a divisor of S.
        how: ``nearest``: the middle pixel of each block, as image libraries do; ``cover``: 1 if any pixel of it is.
    """
    if how == "nearest":
        return F.interpolate(mask, (size, size), mode="nearest-exact")  # plain nearest is the block's first pixel
    return F.adaptive_max_pool2d(mask, (size, size))


def shrinking(mask: Tensor, count: int) -> list[Tensor]:
    """Return ``count`` + 1 masks [B,1,h,w]: dilated by squares of 3 + 2i pixels, i = count-1 ... 0, then the mask."""
    dilated = [F.max_pool2d(mask, 3 + 2 * i, stride=1, padding=1 + i) for i in reversed(range(count))]
    return [*dilated, mask]


def steps_per_mask(steps: int, masks: int) -> int:
    """Return how many steps each mask is used in; the last one has what is left."""
    return steps // masks + 1


def clip_distance(clip: ImageEncoder, image: Tensor, mask: Tensor, target: Tensor) -> Tensor:
    """Return the cosine distance of the edited region, on black, to texts' embeddings: [B], 0 to 2.

    Args:
        clip: the image tower.
        image: [B,3,S,S] in [-1, 1].
        mask: [B,1,S,S].
        target: [B,D].
    """
    region = ((image + 1) / 2).clamp(0, 1) * mask
    small = F.interpolate(region, (clip.image_size, clip.image_size), mode="bilinear", antialias=True)
    return cosine_distance(clip.encode_image(small, normalise=True), target)
