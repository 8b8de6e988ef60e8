"""Extending augmentations: many warped views of an image, differentiably.

A loss averaged over views that see the image turned, shifted and in perspective cannot be lowered by a pattern that
only one exact framing shows (Avrahami et al. 2022, section 3.3). The views' parameters come from each entry's own
generator; all views are warped in one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.noise import Draws, to_device

STREAM = "augmentation"
_NUMBERS = 13  # uniforms per view: whether affine, angle, dx, dy; whether perspective, four corners' x and y


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the views' transforms; the defaults are those of Blended Diffusion's published run."""

    affine: float = 0.7  # probability; 0 leaves only the paper's projective transform
    degrees: float = 15.0  # rotation to either side, about the centre
    shift: float = 0.1  # of the side, to either side
    translate: Literal["both", "vertical"] = "both"  # "vertical" is the effect of the published code's scalar
    perspective: float = 0.7  # probability
    distortion: float = 0.7  # each corner moves inwards by up to this share of half the side: 58 % padding on average


def extended(x: Tensor, views: int, draws: Draws, augmentation: Augmentation) -> Tensor:
    """Return views of each image: [B,C,H,W] -> [B*views,C,H,W], row b*views+v. View 0 is the image itself.

    Args:
        x: images in [-1, 1]; padding is 0, mid-grey.
        views: 1 or more; 1 draws nothing.
        draws: source of the views' parameters.
        augmentation: ranges of the transforms.
    """
    if views == 1:
        return x
    size = (x.shape[-2], x.shape[-1])
    numbers = draws.uniform(STREAM, (views - 1, _NUMBERS))
    affine = affine_sources(numbers[..., :4], size, augmentation).flatten(0, 1)
    corners = perspective_sources(numbers[..., 4:], size, augmentation).flatten(0, 1)
    copies = x.repeat_interleave(views - 1, dim=0)
    warped = warp(warp(copies, affine, "border"), corners, "zeros")
    return torch.cat([x[:, None], warped.view(len(x), views - 1, *x.shape[1:])], dim=1).flatten(0, 1)


def affine_sources(numbers: Tensor, size: tuple[int, int], augmentation: Augmentation) -> Tensor:
    """Return the matrices from a view's pixels to the image's, affine: [..., 4] uniforms -> [..., 3, 3]."""
    height, width = size
    applies = (numbers[..., 0] < augmentation.affine).double()
    signed = (2 * numbers[..., 1:] - 1) * applies[..., None]
    angle = torch.deg2rad(signed[..., 0] * augmentation.degrees)
    dx = signed[..., 1] * augmentation.shift * width * (augmentation.translate == "both")
    dy = signed[..., 2] * augmentation.shift * height
    cx, cy = (width - 1) / 2, (height - 1) / 2
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    left = cos * (-cx - dx) + sin * (-cy - dy) + cx
    top = -sin * (-cx - dx) + cos * (-cy - dy) + cy
    rows = [cos, sin, left, -sin, cos, top, zero, zero, one]
    return torch.stack(rows, dim=-1).reshape(*angle.shape, 3, 3)


def perspective_sources(numbers: Tensor, size: tuple[int, int], augmentation: Augmentation) -> Tensor:
    """Return the matrices from a view's pixels to the image's, perspective: [..., 9] uniforms -> [..., 3, 3].

    The image's corners move inside the frame; the homography maps them back to the corners.
    """
    height, width = size
    applies = (numbers[..., 0] < augmentation.perspective).double()
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=torch.float64)
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    inwards = numbers[..., 1:].reshape(*numbers.shape[:-1], 4, 2) * applies[..., None, None] * augmentation.distortion
    return homography(corners + inwards * (centre - corners), corners)


def homography(points: Tensor, images: Tensor) -> Tensor:
    """Return the projective map [..., 3, 3] from four points [..., 4, 2] to their images [..., 4, 2]."""
    x, y = points.unbind(-1)
    u, v = images.expand_as(points).unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    for_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=-1)
    for_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=-1)
    solved = torch.linalg.solve(torch.cat([for_u, for_v], dim=-2), torch.cat([u, v], dim=-1))
    return torch.cat([solved, torch.ones_like(solved[..., :1])], dim=-1).reshape(*solved.shape[:-1], 3, 3)


def warp(x: Tensor, sources: Tensor, padding: Literal["zeros", "border"]) -> Tensor:
    """Return x warped by bilinear sampling.

    Args:
        x: [N,C,H,W].
        sources: [N,3,3] float64, map a pixel (column, row, 1) of the result to one of x.
        padding: the values outside x.
    """
    height, width = x.shape[-2:]
    # To grid_sample's coordinates before the cast: float32 then rounds numbers near 1, not pixel numbers.
    to_unit = torch.tensor([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]], dtype=torch.float64)
    matrix = to_device((to_unit @ sources).to(x.dtype), x.device)[:, :, :, None, None]
    column = torch.arange(width, device=x.device, dtype=x.dtype).view(1, 1, width)
    row = torch.arange(height, device=x.device, dtype=x.dtype).view(1, height, 1)
    u, v, w = (matrix[:, i, 0] * column + matrix[:, i, 1] * row + matrix[:, i, 2] for i in range(3))
    return F.grid_sample(x, torch.stack([u / w, v / w], dim=-1), padding_mode=padding, align_corners=True)
