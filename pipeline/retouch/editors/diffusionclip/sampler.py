"""DiffusionCLIP on tensors: inversion by one network, generation by another (Kim, Kwon, Ye 2022).

Images are float [-1, 1], NCHW. Entries of a batch share the timesteps and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retouch.diffusion.clip_losses import absolute_error, clip_view, global_loss, negative_log
from retouch.diffusion.noise import Draws
from retouch.diffusion.sampling import Denoise, Prediction, Timestep, ddim, ddpm, q_sample, sample
from retouch.diffusion.schedule import Schedule
from retouch.diffusion.timesteps import generation_path, inversion_path
from retouch.editors.diffusionclip.params import Params

Record = Callable[[Tensor, int], None]  # called with x [B,3,S,S] after each step, and the t that the step started from
Encode = Callable[[Tensor], Tensor]  # [B,3,size,size] in [0, 1] -> raw embeddings [B,D]


def inverted(
    source: Denoise, schedule: Schedule, x0: Tensor, params: Params, *, record: Record | None = None
) -> Tensor:
    """Return the latent at level t_0 from which ``source`` generates x0: deterministic DDIM, run towards the noise."""
    path = inversion_path(params.t_0, params.n_inv)
    return sample(source, x0, path, step=ddim(schedule), after_step=_recorded(record)).x


def purified(
    source: Denoise, schedule: Schedule, x0: Tensor, params: Params, draws: Draws, *, record: Record | None = None
) -> Tensor:
    """Return x0 in the domain of ``source``, after rounds of noise up to t_0 and a few DDIM steps down.

    Args:
        draws: stream ``purify``.
    """
    path = generation_path(params.t_0, params.purify_steps)
    for _ in range(params.purify):
        x = noised(schedule, x0, params.t_0, draws.normal("purify", x0.shape[1:]))
        x0 = sample(source, x, path, step=ddim(schedule), after_step=_recorded(record)).x
    return x0


def noised(schedule: Schedule, x0: Tensor, t_0: int, noise: Tensor) -> Tensor:
    """Return x0 noised for a generation from t_0: to the level below it, as published."""
    return q_sample(schedule, x0, t_0 - 1, noise)


def generated(
    denoise: Denoise, schedule: Schedule, x: Tensor, params: Params, draws: Draws, *, record: Record | None = None
) -> Tensor:
    """Return the image that ``denoise`` generates from x at level t_0.

    Args:
        draws: stream ``step``, if the sampler draws noise.
    """
    return sample(
        denoise,
        x,
        generation_path(params.t_0, params.n_gen),
        step=ddpm(schedule) if params.sampler == "ddpm" else ddim(schedule, params.eta),
        noise=(lambda: draws.normal("step", x.shape[1:])) if params.is_random else None,
        after_step=_recorded(record),
    ).x


def generated_from_noise(
    denoise: Denoise, schedule: Schedule, x0: Tensor, params: Params, draws: Draws, *, record: Record | None = None
) -> Tensor:
    """Noise x0 and generate, ``repeats`` times, each time from the last result.

    Args:
        draws: stream ``start``, and ``step`` if the sampler draws noise.
    """
    for _ in range(params.repeats):
        x = noised(schedule, x0, params.t_0, draws.normal("start", x0.shape[1:]))
        x0 = generated(denoise, schedule, x, params, draws, record=record)
    return x0


def optimised(
    source: Denoise,
    schedule: Schedule,
    latent: Tensor,
    x0: Tensor,
    encode: Encode,
    clip_size: int,
    target: Tensor,
    params: Params,
) -> Tensor:
    """Return the latent optimised by Adam, so that the image ``source`` generates from it matches the text for CLIP.

    Adam works elementwise and the losses of entries are summed, so an entry's latent depends on itself alone.

    Args:
        source: the network, frozen.
        latent: [B,3,S,S] at level t_0.
        x0: [B,3,S,S], which the result should stay near.
        encode: CLIP's image tower, including normalisation.
        clip_size: side of the images that it takes.
        target: raw text embeddings [B,D].
        params: ``optimise``, ``n_train``, ``latent_lr`` and the two weights.
    """
    path = generation_path(params.t_0, params.n_train)
    latent = latent.clone().requires_grad_()
    adam = torch.optim.Adam([latent], lr=params.latent_lr)
    with torch.enable_grad():
        for _ in range(params.optimise):
            image = sample(recomputed(source), latent, path, step=ddim(schedule)).x
            embedded = encode(clip_view(image, clip_size))
            losses = params.clip_weight * negative_log(global_loss(embedded, target))
            losses = losses + params.l1_weight * absolute_error(image, x0)
            (latent.grad,) = torch.autograd.grad(losses.sum(), latent)
            adam.step()
    return latent.detach()


def recomputed(denoise: Denoise) -> Denoise:
    """Return a denoiser that recomputes activations in the backward pass: memory holds one step instead of all."""

    def checkpointed(x_t: Tensor, t: Timestep) -> Prediction:
        # No network here draws random numbers, so no generator state has to be restored.
        return checkpoint(denoise, x_t, t, use_reentrant=False, preserve_rng_state=False)

    return checkpointed


def _recorded(record: Record | None) -> Callable[[Tensor, int], Tensor] | None:
    if record is None:
        return None

    def after_step(x: Tensor, t: int) -> Tensor:
        record(x, t)
        return x

    return after_step
