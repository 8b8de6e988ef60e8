"""Paint by Example on tensors: what the UNet is given, guidance between two contexts, the walk (Yang et al. 2022).

Knows nothing of uint8, files or loading. Images are float [-1, 1], NCHW; a mask's 1 is what is edited. Entries of a
batch share the timesteps and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.noise import Draws
from retouch.diffusion.plms import plms
from retouch.diffusion.sampling import Denoise, Network, Prediction, Timestep, ddim, sample
from retouch.diffusion.schedule import Schedule, named
from retouch.diffusion.solvers import solve
from retouch.diffusion.timesteps import latent_diffusion_path
from retouch.editors.paint_by_example.params import Params
from retouch.editors.runtime import in_precision
from retouch.models.paint_by_example import LatentNetworks


@dataclass(frozen=True)
class Condition:
    """What stays the same throughout a walk."""

    context: Tensor  # [B,N,D] of the exemplars
    uncond: Tensor  # [1,1,D], learned in the place of an exemplar
    masked: Tensor  # [B,4,h,w], scaled latent of the source with a mid-grey hole
    keep: Tensor  # [B,1,h,w], 1 where the source stays


def edit(
    networks: LatentNetworks,
    source: Tensor,
    mask: Tensor,
    exemplar: Tensor,
    scale: Tensor,
    params: Params,
    draws: Draws,
    record: Callable[[Tensor, int], None] | None = None,
) -> Tensor:
    """The exemplar's object painted into the mask: [B,3,S,S], all of it through the autoencoder, not clamped.

    Args:
        networks: the three.
        source: [B,3,S,S] in [-1, 1], S a multiple of what autoencoder and UNet halve.
        mask: [B,1,S,S], 1 = edit.
        exemplar: [B,3,R,R] in [0, 1], R the encoder's image size.
        scale: [B], guidance scale of each entry.
        params: the knobs; ``guidance_scale`` is not read, ``scale`` is.
        draws: streams ``posterior``, ``start`` and ``step``.
        record: sees x [B,4,h,w] and t after each step.

    Raises:
        ConfigError: steps that no grid has.
    """
    condition = conditioned(networks, source, mask, exemplar, params, draws)
    unet = networks.unet

    def network(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        predicted: Tensor = unet(x, t, context, return_dict=False)[0]
        return predicted

    denoise = guided(in_precision(network, params.precision, str(source.device)), condition, scale)
    start = draws.normal("start", condition.masked.shape[1:])
    z = walk(denoise, start, named(networks.schedule), params, draws, record)
    decoded: Tensor = networks.vae.decode(z / networks.scaling_factor, return_dict=False)[0]
    return decoded


def conditioned(
    networks: LatentNetworks, source: Tensor, mask: Tensor, exemplar: Tensor, params: Params, draws: Draws
) -> Condition:
    """What the UNet is given beside x_t; arguments as in :func:`edit`."""
    keep = 1 - mask  # from here on a mask's 1 is what stays, as the UNet was trained
    posterior = networks.vae.encode(source * keep, return_dict=False)[0]
    masked = posterior.mean
    if params.posterior == "sample":
        masked = masked + posterior.std * draws.normal("posterior", masked.shape[1:])
    size = (masked.shape[-2], masked.shape[-1])
    mean, std = (exemplar.new_tensor(values).view(3, 1, 1) for values in (networks.mean, networks.std))
    context = networks.encoder((exemplar - mean) / std, params.tokens)
    return Condition(
        context=context,
        uncond=networks.encoder.uncond_vector,
        masked=masked * networks.scaling_factor,
        keep=latent_mask(keep, size, params.mask_resize),
    )


def guided(network: Network, condition: Condition, scale: Tensor) -> Denoise:
    """A denoiser of the latents: eps_u + scale (eps_c - eps_u), both from one pass of twice the batch.

    Where every entry's scale [B] is 1, nothing needs eps_u, and a pass has the batch's own size.
    """
    fixed = torch.cat([condition.masked, condition.keep], dim=1)
    plain = bool((scale == 1).all())
    uncond = condition.uncond.expand_as(condition.context)  # many tokens that are equal attend as one
    context = condition.context if plain else torch.cat([uncond, condition.context])
    scale = scale.view(-1, 1, 1, 1)

    def denoise(x_t: Tensor, t: Timestep) -> Prediction:
        x = torch.cat([x_t, fixed], dim=1)  # channels as published: 4 of x_t, 4 of the masked image, 1 of the mask
        if isinstance(t, int):  # filled on the device: a copy there would wait for all work before it
            timesteps = torch.full((len(context),), t, device=x.device)
        else:
            timesteps = t.to(x.device).expand(len(context))
        if plain:
            return Prediction(network(x, timesteps, context))
        eps_u, eps_c = network(torch.cat([x, x]), timesteps, context).chunk(2)
        return Prediction(eps_u + scale * (eps_c - eps_u))

    return denoise


def walk(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    params: Params,
    draws: Draws,
    record: Callable[[Tensor, int], None] | None = None,
) -> Tensor:
    """Takes x [B,4,h,w] from noise to a scaled latent, by the sampler that ``params`` name."""
    if params.sampler in ("dpm++", "unipc"):
        return solve(params.sampler, denoise, x, schedule, params.steps, record)
    shape = x.shape[1:]

    def after_step(x: Tensor, t: int) -> Tensor:
        if record is not None:
            record(x, t)
        return x

    return sample(
        denoise,
        x,
        latent_diffusion_path(schedule, params.steps),
        step=plms(schedule, denoise) if params.sampler == "plms" else ddim(schedule, params.eta),
        noise=(lambda: draws.normal("step", shape)) if params.eta > 0 else None,
        after_step=after_step,
    ).x


def latent_mask(keep: Tensor, size: tuple[int, int], how: Literal["bilinear", "nearest"]) -> Tensor:
    """A mask [B,1,H,W] at the latents' size; bilinear without antialiasing, as the original's library did it."""
    return F.interpolate(keep, size, mode=how)


def square_exemplar(exemplar: Tensor, size: int, how: Literal["squash", "crop"]) -> Tensor:
    """Exemplars [B,3,h,w] in [0, 1] as [B,3,size,size], bicubic, on the 256 levels that a resized file would have.

    Args:
        exemplar: pixels at their own size.
        size: pixels a side.
        how: ``squash`` the whole; ``crop``: the shorter side becomes ``size``, and the middle of the longer is taken.
    """
    height, width = exemplar.shape[-2:]
    high = wide = size
    if how == "crop":
        high, wide = (size, size * width // height) if height <= width else (size * height // width, size)
    if (height, width) != (high, wide):
        exemplar = F.interpolate(exemplar, (high, wide), mode="bicubic", align_corners=False, antialias=True)
    top, left = (high - size) // 2, (wide - size) // 2
    return (exemplar[:, :, top : top + size, left : left + size].clamp(0, 1) * 255).round() / 255
