"""Guidance of a denoiser by a loss's gradient, and losses of images and embeddings.

Losses return one number per entry, [B]; only sums are differentiated, so entry i's gradient depends on entry i alone.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.sampling import Denoise, Prediction, Timestep, predict_x0
from retouch.diffusion.schedule import Schedule

Loss = Callable[[Tensor, Tensor, Timestep], Tensor]  # (x_t, x0, t) -> [B]


def by_gradient(denoise: Denoise, loss: Loss, schedule: Schedule) -> Denoise:
    """Return a denoiser guided by -d loss / d x_t, through the network.

    One forward pass serves the step and the gradient; the step gets the same prediction, detached.
    """

    def guided(x_t: Tensor, t: Timestep) -> Prediction:
        with torch.enable_grad():
            x_t = x_t.detach().requires_grad_()
            prediction = denoise(x_t, t)
            losses = loss(x_t, predict_x0(schedule, x_t, t, prediction.eps), t)
            (grad,) = torch.autograd.grad(losses.sum(), x_t)
        return Prediction(prediction.eps.detach(), _detached(prediction.log_variance), -grad)

    return guided


def by_x0_gradient(denoise: Denoise, loss: Loss, schedule: Schedule) -> Denoise:
    """Return a denoiser guided by -d loss / d x0 at fixed x_t: no backward pass (half the time and memory)."""

    def guided(x_t: Tensor, t: Timestep) -> Prediction:
        with torch.no_grad():
            prediction = denoise(x_t, t)
            x0 = predict_x0(schedule, x_t, t, prediction.eps)
        with torch.enable_grad():
            x0 = x0.detach().requires_grad_()
            (grad,) = torch.autograd.grad(loss(x_t.detach(), x0, t).sum(), x0)
        return Prediction(prediction.eps, prediction.log_variance, -grad)

    return guided


def only_for(denoise: Denoise, guided: Tensor) -> Denoise:
    """Return a denoiser with a gradient of exactly zero (NaN, too) for entries whose ``guided`` [B] is False."""

    def partly(x_t: Tensor, t: Timestep) -> Prediction:
        prediction = denoise(x_t, t)
        if prediction.grad is None:
            return prediction
        grad = torch.where(guided.view(-1, 1, 1, 1), prediction.grad, 0.0)
        return Prediction(prediction.eps, prediction.log_variance, grad)

    return partly


def spherical_distance(u: Tensor, v: Tensor) -> Tensor:
    """Return 2 arcsin^2(|u - v| / 2) of the unit vectors along the last axis; 0 to pi^2/2."""
    chord: Tensor = torch.linalg.vector_norm(F.normalize(u, dim=-1) - F.normalize(v, dim=-1), dim=-1)
    return (chord / 2).clamp(max=1.0).arcsin().square() * 2  # rounding takes opposite vectors' chord past 2


def cosine_distance(u: Tensor, v: Tensor) -> Tensor:
    """Return 1 - cos of the angle along the last axis; 0 to 2."""
    return 1 - (F.normalize(u, dim=-1) * F.normalize(v, dim=-1)).sum(dim=-1)


def range_loss(x0: Tensor) -> Tensor:
    """Return the mean square by which each image exceeds [-1, 1], [B]."""
    return (x0 - x0.clamp(-1, 1)).square().flatten(1).mean(dim=1)


def square_error(x: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of each image, [B]."""
    return (x - target).square().flatten(1).mean(dim=1)


def blend_input(schedule: Schedule, x_t: Tensor, x0: Tensor, t: int) -> Tensor:
    """Return f x0 + (1-f) x_t, f = sqrt(1 - alphas_cumprod[t]): nearly x0 at high noise, nearly x_t at the end."""
    f = sqrt(1.0 - float(schedule.alphas_cumprod[t]))
    return f * x0 + (1 - f) * x_t


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()
