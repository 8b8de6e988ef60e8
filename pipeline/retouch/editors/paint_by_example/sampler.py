"""Paint by Example on tensors: conditioning, guidance between two contexts, sampling (Yang et al. 2022).

Images are float [-1, 1], NCHW; a mask's 1 is edited. Entries of a batch share the timesteps and nothing else.
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
from retouch.models.paint_by_example import PaintByExampleNetworks


@dataclass(frozen=True)
class Condition:
    """Inputs of the UNet that stay the same in all steps."""

    context: Tensor  # [B,N,D] of the exemplars
    uncond: Tensor  # [1,1,D], learned in place of an exemplar
    masked: Tensor  # [B,4,h,w], scaled latent of the source with a mid-grey hole
    keep: Tensor  # [B,1,h,w], 1 where the source stays


def edit(
    networks: PaintByExampleNetworks,
    source: Tensor,
    mask: Tensor,
    exemplar: Tensor,
    scale: Tensor,
    params: Params,
    draws: Draws,
    record: Callable[[Tensor, int], None] | None = None,
) -> Tensor:
    """Return the source with the exemplar's object in the mask: [B,3,S,S], through the autoencoder, not clamped.

    Args:
        networks: UNet, autoencoder and exemplar encoder.
        source: [B,3,S,S] in [-1, 1], S a multiple of the factor by which autoencoder and UNet downsample.
        mask: [B,1,S,S], 1 = edit.
        exemplar: [B,3,R,R] in [0, 1], R the encoder's image size.
        scale: [B], guidance scale of each entry.
        params: the parameters; ``scale`` replaces ``guidance_scale``.
        draws: streams ``posterior``, ``start`` and ``step``.
        record: called with x [B,4,h,w] and t after each step.

    Raises:
        ConfigError: no grid has this number of steps.
    """
    condition = conditioned(networks, source, mask, exemplar, params, draws)
    unet = networks.unet

    def network(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        predicted: Tensor = unet(x, t, context, return_dict=False)[0]
        return predicted

    denoise = guided(in_precision(network, params.precision, str(source.device)), condition, scale)
    start = draws.normal("start", condition.masked.shape[1:])
    z = sample_latent(denoise, start, named(networks.schedule), params, draws, record)
    decoded: Tensor = networks.vae.decode(z / networks.scaling_factor, return_dict=False)[0]
    return decoded


def conditioned(
    networks: PaintByExampleNetworks, source: Tensor, mask: Tensor, exemplar: Tensor, params: Params, draws: Draws
) -> Condition:
    """Return the UNet's inputs apart from x_t; arguments as in :func:`edit`."""
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
    """Return a denoiser of the latents: eps_u + scale (eps_c - eps_u), both from one pass of twice the batch.

    If every entry's scale [B] is 1, eps_u is not needed, and a pass has the batch's own size.
    """
    fixed = torch.cat([condition.masked, condition.keep], dim=1)
    plain = bool((scale == 1).all())
    uncond = condition.uncond.expand_as(condition.context)  # equal tokens attend as one
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


def sample_latent(
    denoise: Denoise,
    x: Tensor,
    schedule: Schedule,
    params: Params,
    draws: Draws,
    record: Callable[[Tensor, int], None] | None = None,
) -> Tensor:
    """Sample x [B,4,h,w] from noise to a scaled latent, with the sampler of ``params``."""
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
    """Resize a mask [B,1,H,W] to the latents' size; bilinear without antialiasing, as in the original's library."""
    return F.interpolate(keep, size, mode=how)


def square_exemplar(exemplar: Tensor, size: int, how: Literal["squash", "crop"]) -> Tensor:
    """Resize exemplars [B,3,h,w] in [0, 1] to [B,3,size,size], bicubic, on the 256 levels of an image file.

    Args:
        exemplar: pixels at their own size.
        size: pixels per side.
        how: ``squash`` all of it; ``crop``: the shorter side becomes ``size``, and the longer is cropped to its middle.
    """
    height, width = exemplar.shape[-2:]
    high = wide = size
    if how == "crop":
        high, wide = (size, size * width // height) if height <= width else (size * height // width, size)
    if (height, width) != (high, wide):
        exemplar = F.interpolate(exemplar, (high, wide), mode="bicubic", align_corners=False, antialias=True)
    top, left = (high - size) // 2, (wide - size) // 2
    return (exemplar[:, :, top : top + size, left : left + size].clamp(0, 1) * 255).round() / 255
