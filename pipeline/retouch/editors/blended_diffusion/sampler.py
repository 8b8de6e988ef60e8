"""Blended Diffusion on tensors: guided, blended sampling and its losses (Avrahami et al. 2022, algorithms 1 and 2).

Images are float [-1, 1], NCHW; a mask's 1 is edited. Entries of a batch share the timesteps and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.augment import Augmentation, extended
from retouch.diffusion.guidance import (
    Loss,
    blend_input,
    by_gradient,
    by_x0_gradient,
    cosine_distance,
    only_for,
    range_loss,
    spherical_distance,
    square_error,
)
from retouch.diffusion.noise import Draws
from retouch.diffusion.sampling import (
    Denoise,
    Network,
    Step,
    Timestep,
    ddim,
    ddpm,
    denoiser,
    downward,
    fixed_large,
    fixed_small,
    q_sample,
    sample,
)
from retouch.diffusion.schedule import Schedule, respace
from retouch.editors.blended_diffusion.params import Params, ResolvedParams
from retouch.editors.runtime import ImageEncoder
from retouch.errors import ConfigError


@dataclass(frozen=True)
class Networks:
    """Networks of an edit. Weights are frozen; gradients reach inputs only."""

    unet: Network
    schedule: Schedule  # as the network was trained, not respaced
    learn_sigma: bool
    clip: ImageEncoder
    num_classes: int = 0
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None  # two of [B,3,S,S] in [-1, 1] -> [B]


@dataclass(frozen=True)
class Edited:
    """Result of an edit, float in about [-1, 1]."""

    image: Tensor  # [B,3,S,S]: x0, pasted into the source if params.pastes
    x0: Tensor  # [B,3,S,S]: of the last step, the published result; not the sample


def edit(
    networks: Networks,
    source: Tensor,
    mask: Tensor,
    target: Tensor,
    params: ResolvedParams,
    draws: Draws,
    *,
    guided: Tensor | None = None,
    record: Callable[[Tensor, int], None] | None = None,
) -> Edited:
    """Run algorithm 2 (or 1) on tensors.

    Args:
        networks: UNet, CLIP, and LPIPS if its loss has weight.
        source: [B,3,S,S] in [-1, 1].
        mask: [B,1,S,S], 1 = edit.
        target: [B,D], the embeddings to move towards.
        params: the parameters.
        draws: streams ``start``, ``step``, ``background``, ``augmentation`` and ``class``.
        guided: [B] bool; False leaves an entry's gradient zero (the empty prompt: filled in from its surroundings).
        record: called with the blended x [B,3,S,S] and t after each step.

    Raises:
        ConfigError: more steps are skipped than there are.
    """
    schedule = schedule_of(networks, params)
    denoise = _denoiser(networks, schedule, params, draws)
    if guided is None or bool(guided.any()):
        wrap = by_gradient if params.gradient == "x_t" else by_x0_gradient
        denoise = wrap(denoise, guidance_loss(networks, schedule, source, mask, target, params, draws), schedule)
        denoise = denoise if guided is None else only_for(denoise, guided)

    def after_step(x: Tensor, t: int) -> Tensor:
        if params.blends:
            x = blended(schedule, x, source, mask, t, draws.normal("background", source.shape[1:]))
        if record is not None:
            record(x, t)
        return x

    path = downward(schedule, params.skip_timesteps)
    with torch.no_grad():  # not inference_mode, whose tensors could not enter the guidance's graph
        end = sample(
            denoise,
            q_sample(schedule, source, path[0], draws.normal("start", source.shape[1:])),
            path,
            step=_step(schedule, params),
            noise=(lambda: draws.normal("step", source.shape[1:])) if _is_random(params) else None,
            after_step=after_step,
        )
    return Edited(pasted(end.x0, source, mask) if params.pastes else end.x0, end.x0)


def schedule_of(networks: Networks, params: Params) -> Schedule:
    """Return the respaced schedule.

    Raises:
        ConfigError: more steps are skipped than there are.
    """
    schedule = respace(networks.schedule, params.timesteps)
    if params.skip_timesteps >= len(schedule):
        raise ConfigError(
            f"skip_timesteps is {params.skip_timesteps} but there are {len(schedule)} timesteps; skip fewer"
        )
    return schedule


def blended(schedule: Schedule, x: Tensor, source: Tensor, mask: Tensor, t: int, noise: Tensor) -> Tensor:
    """Return x inside the mask; outside, the source at the level that the step started from (t, as published)."""
    return x * mask + q_sample(schedule, source, t, noise) * (1 - mask)


def pasted(x0: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Return x0 inside the mask, the source outside."""
    return source * (1 - mask) + x0 * mask


def guidance_loss(
    networks: Networks,
    schedule: Schedule,
    source: Tensor,
    mask: Tensor,
    target: Tensor,
    params: ResolvedParams,
    draws: Draws,
) -> Loss:
    """Return the weighted sum of the CLIP, range and background losses, one number per entry."""
    background = background_loss(networks, source, mask, params) if params.background_preservation_loss else None

    def loss(x_t: Tensor, x0: Tensor, t: Timestep) -> Tensor:
        if not isinstance(t, int):
            raise TypeError("Blended Diffusion needs the same timesteps for all entries of a batch")
        x_in = blend_input(schedule, x_t, x0, t) if params.guide_on == "blend" else x0
        total = params.range_lambda * range_loss(x0)
        if params.clip_guidance_lambda > 0:
            total = total + params.clip_guidance_lambda * clip_loss(networks.clip, x_in * mask, target, params, draws)
        return total if background is None else total + background(x_in)

    return loss


def clip_loss(clip: ImageEncoder, x: Tensor, target: Tensor, params: ResolvedParams, draws: Draws) -> Tensor:
    """Return the distance of the masked image x in [-1, 1] to its target, averaged over its views: [B]."""
    distance = spherical_distance if params.distance == "spherical" else cosine_distance
    small = F.adaptive_avg_pool2d(x, clip.image_size)
    ranges = Augmentation(translate=params.translate)
    if params.augmentation == "perspective":
        ranges = replace(ranges, affine=0.0)
    views = extended(small, params.aug_num, draws, ranges)
    embedded = clip.encode_image((views + 1) / 2, normalise=True)
    return distance(embedded.view(len(x), params.aug_num, -1), target[:, None]).mean(dim=1)


def background_loss(
    networks: Networks, source: Tensor, mask: Tensor, params: ResolvedParams
) -> Callable[[Tensor], Tensor]:
    """Return the weighted LPIPS and square error of x_in outside the mask to the source: [B]."""
    wanted = source * (1 - mask) if params.background_target == "masked" else source

    def loss(x_in: Tensor) -> Tensor:
        outside = x_in * (1 - mask)
        total = params.l2_lambda * square_error(outside, wanted)
        if networks.lpips is not None and params.lpips_lambda > 0:
            total = total + params.lpips_lambda * networks.lpips(outside, wanted)
        return total

    return loss


def clip_distance(clip: ImageEncoder, image: Tensor, mask: Tensor, target: Tensor, params: ResolvedParams) -> Tensor:
    """Return the spherical distance of the edited region to its target, unaugmented: [B], lower is better.

    ``ranking: repo`` puts the region on black instead of grey, resizes differently, and skips CLIP's normalisation.
    """
    size = clip.image_size
    if params.ranking == "guidance":
        small = F.adaptive_avg_pool2d(image.clamp(-1, 1) * mask, size)
        return spherical_distance(clip.encode_image((small + 1) / 2, normalise=True), target)
    region = ((image + 1) / 2).clamp(0, 1) * mask
    small = F.interpolate(region, (size, size), mode="bilinear", antialias=True)
    return spherical_distance(clip.encode_image(small, normalise=False), target)


def _denoiser(networks: Networks, schedule: Schedule, params: Params, draws: Draws) -> Denoise:
    classes = networks.num_classes if params.class_mode == "random" else 0
    labels = (lambda: draws.integers("class", classes)) if classes else None
    return denoiser(networks.unet, schedule, learn_sigma=networks.learn_sigma, labels=labels)


def _step(schedule: Schedule, params: Params) -> Step:
    if params.sampler == "ddim":
        return ddim(schedule, params.eta)
    return ddpm(schedule, fixed_small if params.variance == "small" else fixed_large)


def _is_random(params: Params) -> bool:
    return params.sampler == "ddpm" or params.eta > 0
