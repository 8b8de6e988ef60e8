"""Views of scenes as guidance shows them to a CLIP: predicted from noise, masked, turned and in perspective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from retouch.diffusion.augment import Augmentation, affine_sources, perspective_sources, warp
from retouch.models.pixel_unet import cosine_alphas_cumprod
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

WHOLE = 0.25  # share of views that show the whole scene
CLEAN = 0.25  # share of views of the drawing itself; the others are predictions from noise
WARPED = 0.6  # share of views
BLACK = 0.25  # share of masked views on black, as in ranking; the others are on mid-grey


@dataclass(frozen=True)
class Views:
    """A batch of views."""

    pixels: Tensor  # [B, 3, S, S] in [0, 1] but for noise
    masked: Tensor  # [B] bool: only the mask's inside is shown
    plain: Tensor  # [B] bool: neither noised nor warped


def seen_views(
    x0: Tensor,
    masks: Tensor,
    size: int,
    network: Callable[[Tensor, Tensor], Tensor] | None = None,
    difficulty: float = 1.0,
) -> Views:
    """Return one view of each image [B, 3, 32, 32] in [-1, 1] with its mask [B, 1, 32, 32] bool, on x0's device.

    ``difficulty`` 0..1 is the share of noised and of warped views, in units of the full share.
    """
    clean = _chosen(x0, 1 - (1 - CLEAN) * difficulty)
    seen = x0.clone()
    if not clean.all():
        seen[~clean] = _predicted_at_random_t(x0[~clean], network)
    masked, warped = ~_chosen(x0, WHOLE), _chosen(x0, WARPED * difficulty)
    fill = torch.where(_chosen(x0, BLACK), -1.0, 0.0).view(-1, 1, 1, 1)
    inside = torch.where(masks, seen, fill)
    shown = torch.where(masked.view(-1, 1, 1, 1), inside, seen)
    large = F.interpolate(shown, (size, size), mode="nearest") if size != shown.shape[-1] else shown
    large = torch.where(warped.view(-1, 1, 1, 1), _warped(large), large)
    return Views((large + 1) / 2, masked, clean & ~warped)


def _chosen(like: Tensor, share: float) -> Tensor:
    return torch.rand(len(like), device=like.device) < share


def _predicted_at_random_t(x0: Tensor, network: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
    """Return guidance's input: f x0' + (1 - f) x_t at random t, f = sqrt(1 - alpha).

    x0' is the network's prediction, or else a blurred x0.
    """
    t = torch.randint(0, 950, (len(x0),), device=x0.device)
    alpha = cosine_alphas_cumprod(1000).float().to(x0.device)[t].view(-1, 1, 1, 1)
    eps = torch.randn_like(x0)
    x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * eps
    guess = _blurred(x0, t) if network is None else _predicted(x_t, t, alpha, network)
    f = (1 - alpha).sqrt()
    return f * guess + (1 - f) * x_t


@torch.no_grad()
def _predicted(x_t: Tensor, t: Tensor, alpha: Tensor, network: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    with torch.autocast(x_t.device.type, torch.bfloat16):
        eps = network(x_t, t).float()
    return ((x_t - (1 - alpha).sqrt() * eps) / alpha.sqrt()).clamp(-1.5, 1.5)


def _blurred(x0: Tensor, t: Tensor) -> Tensor:
    """Return x0 with a blur of 0 px at t = 0 to 5 px at 900 and slight noise; an eighth of the batch per kernel."""
    order = t.argsort()
    blurred = torch.empty_like(x0)
    for part in order.chunk(8):
        sigma = max(0.1, 5.0 * (float(t[part].float().mean()) / 900) ** 2)
        reach = math.ceil(2.5 * sigma)
        at = torch.arange(-reach, reach + 1, device=x0.device).float()
        kernel = torch.exp(-(at**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).repeat(3, 1)
        padded = F.pad(x0[part], (reach,) * 4, mode="replicate")
        rows = F.conv2d(padded, kernel[:, None, None, :], groups=3)
        blurred[part] = F.conv2d(rows, kernel[:, None, :, None], groups=3)
    return blurred + 0.1 * torch.rand(len(x0), 1, 1, 1, device=x0.device) * torch.randn_like(x0)


def _warped(images: Tensor) -> Tensor:
    """Return images turned, shifted and in perspective, with guidance's ranges."""
    size = (images.shape[-2], images.shape[-1])
    numbers = torch.rand(len(images), 13, dtype=torch.float64)
    affine = affine_sources(numbers[:, :4], size, Augmentation())
    corners = perspective_sources(numbers[:, 4:], size, Augmentation())
    return warp(warp(images, affine, "border"), corners, "zeros")
