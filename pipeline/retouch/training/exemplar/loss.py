"""What is trained, as one module that gives its error; and what it is given. Knows no optimizer and no file.

Source: Yang et al. 2022, equation 2 and section 3.3.
"""

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
from retouch.models.paint_by_example import LatentNetworks
from retouch.training.exemplar.examples import Example


@dataclass(frozen=True)
class Given:
    """A batch as the painter takes it; h and w are the latent's."""

    latent: Tensor  # [B,4,h,w] of the target, scaled
    masked: Tensor  # [B,4,h,w] of the target with a mid-grey hole, scaled
    keep: Tensor  # [B,1,h,w]
    reference: Tensor  # [B,3,R,R] on CLIP's normalised scale
    eps: Tensor  # [B,4,h,w]
    t: Tensor  # [B] int64
    dropped: Tensor  # [B] bool: the condition is the unconditional vector


class Painter(nn.Module):
    """UNet and encoder, and the squared error of the noise that they see."""

    alphas_cumprod: Tensor

    def __init__(self, networks: LatentNetworks, tokens: Tokens) -> None:
        super().__init__()
        self.unet, self.encoder, self.tokens = networks.unet, networks.encoder, tokens
        alphas = torch.from_numpy(named(networks.schedule).alphas_cumprod).float()
        self.register_buffer("alphas_cumprod", alphas, persistent=False)

    def forward(self, given: Given) -> Tensor:
        """Mean squared error of eps [B] of each entry."""
        alpha = self.alphas_cumprod[given.t].view(-1, 1, 1, 1)
        x_t = alpha.sqrt() * given.latent + (1 - alpha).sqrt() * given.eps
        context = self.encoder(given.reference, self.tokens)
        context = torch.where(given.dropped[:, None, None], self.encoder.uncond_vector.to(context.dtype), context)
        x = torch.cat([x_t, given.masked, given.keep], dim=1)  # channels and polarity as published: 1 = keep
        eps = self.unet(x, given.t, context, return_dict=False)[0]
        error: Tensor = (eps.float() - given.eps).square().flatten(1).mean(dim=1)
        return error


@torch.no_grad()
def prepare(networks: LatentNetworks, examples: Sequence[Example], seeds: Sequence[int], drop: Tensor) -> Given:
    """A batch for the painter: latents and noise, each entry's from its own seed.

    Args:
        networks: on their device; the autoencoder is run, in float32.
        examples: B of them.
        seeds: one an example.
        drop: [B] bool, which conditions are left out.
    """
    device = networks.encoder.uncond_vector.device
    draws = Noise(seeds, device)
    target = torch.stack([example.target for example in examples]).to(device)
    keep = torch.stack([example.keep for example in examples]).to(device)
    reference = torch.stack([example.reference for example in examples]).to(device)
    mean, std = (reference.new_tensor(values).view(3, 1, 1) for values in (networks.mean, networks.std))
    latent = _latent(networks, target, draws, "target")
    return Given(
        latent=latent,
        masked=_latent(networks, target * keep, draws, "masked"),
        keep=latent_mask(keep, (latent.shape[-2], latent.shape[-1]), "bilinear"),
        reference=(reference - mean) / std,
        eps=draws.normal("eps", latent.shape[1:]),
        t=draws.integers("t", len(named(networks.schedule))),
        dropped=drop.to(device),
    )


def _latent(networks: LatentNetworks, images: Tensor, draws: Noise, stream: str) -> Tensor:
    """A draw of the autoencoder's posterior, as published, scaled."""
    posterior = networks.vae.encode(images, return_dict=False)[0]
    drawn: Tensor = posterior.mean + posterior.std * draws.normal(stream, posterior.mean.shape[1:])
    return drawn * networks.scaling_factor


def drops(seeds: Sequence[int], percent: float, how: Literal["sample", "batch"]) -> Tensor:
    """Which of B conditions are left out, [B] bool: each by its own draw, or all by that of the first."""
    drawn = Noise(seeds).uniform("drop", ()) < percent
    return drawn if how == "sample" else drawn[:1].expand(len(seeds))
