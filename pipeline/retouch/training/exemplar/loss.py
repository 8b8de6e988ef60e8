"""The training loss of Paint by Example, and the batch that it takes (Yang et al. 2022, equation 2 and section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from retouch.diffusion.noise import Noise
from retouch.diffusion.schedule import named
from retouch.editors.paint_by_example.sampler import latent_mask
from retouch.models.exemplar_encoder import Tokens
from retouch.models.paint_by_example import PaintByExampleNetworks
from retouch.training.exemplar.examples import Example


@dataclass(frozen=True)
class TrainBatch:
    """A batch on the networks' device; h and w are the latent's size."""

    latent: Tensor  # [B,4,h,w] of the target, scaled
    masked: Tensor  # [B,4,h,w] of the target with a mid-grey hole, scaled
    keep: Tensor  # [B,1,h,w]
    reference: Tensor  # [B,3,R,R] on CLIP's normalised scale
    eps: Tensor  # [B,4,h,w]
    t: Tensor  # [B] int64
    dropped: Tensor  # [B] bool: the condition is the unconditional vector


class ExemplarLoss(nn.Module):
    """UNet and encoder in one module, whose output is the squared error of the predicted noise."""

    alphas_cumprod: Tensor

    def __init__(self, networks: PaintByExampleNetworks, tokens: Tokens) -> None:
        super().__init__()
        self.unet, self.encoder, self.tokens = networks.unet, networks.encoder, tokens
        alphas = torch.from_numpy(named(networks.schedule).alphas_cumprod).float()
        self.register_buffer("alphas_cumprod", alphas, persistent=False)

    def forward(self, batch: TrainBatch) -> Tensor:
        """Return the mean squared error of eps [B] per entry."""
        alpha = self.alphas_cumprod[batch.t].view(-1, 1, 1, 1)
        x_t = alpha.sqrt() * batch.latent + (1 - alpha).sqrt() * batch.eps
        context = self.encoder(batch.reference, self.tokens)
        context = torch.where(batch.dropped[:, None, None], self.encoder.uncond_vector.to(context.dtype), context)
        x = torch.cat([x_t, batch.masked, batch.keep], dim=1)  # channels and polarity as published: 1 = keep
        eps = self.unet(x, batch.t, context, return_dict=False)[0]
        error: Tensor = (eps.float() - batch.eps).square().flatten(1).mean(dim=1)
        return error


@torch.no_grad()
def prepare_batch(
    networks: PaintByExampleNetworks, examples: Sequence[Example], seeds: Sequence[int], dropped: Tensor
) -> TrainBatch:
    """Return the batch of B examples: latents and noise, each entry's from its own seed.

    Args:
        networks: on their device; the autoencoder is run, in float32.
        examples: B of them.
        seeds: one per example.
        dropped: [B] bool, which conditions are dropped.
    """
    device = networks.encoder.uncond_vector.device
    draws = Noise(seeds, device)
    target = torch.stack([example.target for example in examples]).to(device)
    keep = torch.stack([example.keep for example in examples]).to(device)
    reference = torch.stack([example.reference for example in examples]).to(device)
    mean, std = (reference.new_tensor(values).view(3, 1, 1) for values in (networks.mean, networks.std))
    latent = _latent(networks, target, draws, "target")
    return TrainBatch(
        latent=latent,
        masked=_latent(networks, target * keep, draws, "masked"),
        keep=latent_mask(keep, (latent.shape[-2], latent.shape[-1]), "bilinear"),
        reference=(reference - mean) / std,
        eps=draws.normal("eps", latent.shape[1:]),
        t=draws.integers("t", len(named(networks.schedule))),
        dropped=dropped.to(device),
    )


def _latent(networks: PaintByExampleNetworks, images: Tensor, draws: Noise, stream: str) -> Tensor:
    """Return a sample of the autoencoder's posterior, as published, scaled."""
    posterior = networks.vae.encode(images, return_dict=False)[0]
    drawn: Tensor = posterior.mean + posterior.std * draws.normal(stream, posterior.mean.shape[1:])
    return drawn * networks.scaling_factor


def dropped_conditions(seeds: Sequence[int], percent: float, how: Literal["sample", "batch"]) -> Tensor:
    """Return which of B conditions are dropped, [B] bool: each by its own draw, or all by the first one's."""
    drawn = Noise(seeds).uniform("drop", ()) < percent
    return drawn if how == "sample" else drawn[:1].expand(len(seeds))
