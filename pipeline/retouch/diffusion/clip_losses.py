"""DiffusionCLIP's losses: whether an edit moves an image in the direction in which one text differs from another.

Differentiable functions of raw CLIP embeddings and of images. Each returns one number per entry, [B], so that entry i's
gradient depends on entry i alone. ``negative_log`` is elementwise; the original code takes it of the batch's mean::

    negative_log(direction_loss(direction, source, edited))          # [B], per entry
    negative_log(direction_loss(direction, source, edited).mean())   # of the batch's mean, as in the original code

The two are equal for a batch of one, which is what the original trains with.

Source: Kim, Kwon, Ye 2022 (DiffusionCLIP), section 3.2; the direction is that of Gal et al. 2021 (StyleGAN-NADA).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.guidance import cosine_distance

# Added to the length of an edit, so that an unchanged image does not divide by zero; the original's number.
EPS = 1e-7

# Lower bound of the argument of negative_log's logarithm. A float32 cosine is exact to about 1e-7; below ten times that
# the argument is rounding error, and the slope of its logarithm would be noise times a million. A slope of zero there
# loses nothing: at opposite directions the cosine has none either.
MIN_ARGUMENT = 1e-6


def text_direction(source: Tensor, target: Tensor) -> Tensor:
    """Return the unit direction [1,D] from the source text to the target text.

    Embeddings are normalised, their differences averaged over the templates, and the average normalised. For equal
    texts the direction is zero and every edit's loss 1.

    Args:
        source: raw embeddings [T,D] of the source text in T templates.
        target: those of the target text, in the same templates.
    """
    difference = (F.normalize(target, dim=-1) - F.normalize(source, dim=-1)).mean(dim=0, keepdim=True)
    return F.normalize(difference, dim=-1)


def direction_loss(direction: Tensor, image_source: Tensor, image_edited: Tensor) -> Tensor:
    """Return 1 - cos of the angle between each edit and the text's direction, [B]: 0 along, 1 across or unchanged.

    Args:
        direction: unit [1,D] or [B,D], of ``text_direction``.
        image_source: raw embeddings [B,D] of the images before the edit.
        image_edited: those of the edited images.
    """
    edit = F.normalize(image_edited, dim=-1) - F.normalize(image_source, dim=-1)
    length = torch.linalg.vector_norm(edit, dim=-1, keepdim=True)
    cosine: Tensor = (edit / (length + EPS) * direction).sum(dim=-1)
    return 1 - cosine


def negative_log(loss: Tensor) -> Tensor:
    """Return -log((2 - L) / 2) of a cosine loss L in 0..2, elementwise: steeper the more an edit goes the wrong way.

    0 at L = 0, 0.288 at 0.5, 0.693 at 1, 1.386 at 1.5, growing without bound towards L = 2. It is clamped there to
    -log(1e-6) = 13.8 with a slope of zero, so value and gradient are finite everywhere.
    """
    return -(1 - loss / 2).clamp(min=MIN_ARGUMENT).log()


def global_loss(image: Tensor, text: Tensor) -> Tensor:
    """Return 1 - cos of the angle between images and a text, [B]; 0 to 2.

    The original optimises latents with it. As a loss for weights it favours adversarial images (section 3.2).

    Args:
        image: raw embeddings [B,D].
        text: raw embedding [1,D], or one per image, [B,D].
    """
    return cosine_distance(image, text)


def absolute_error(x: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of each image, [B]."""
    return (x - target).abs().flatten(1).mean(dim=1)


def clip_view(x: Tensor, size: int, antialias: bool = True) -> Tensor:
    """Return images [B,3,H,W] in [-1,1] at CLIP's size: [B,3,size,size] in [0,1], not normalised by its mean and std.

    Bicubic resize of the shorter side to ``size``, then the centre square. Not clamped: bicubic overshoots at edges,
    and a clamp would have no gradient there.

    Args:
        size: CLIP's image size.
        antialias: average over the pixels that shrinking drops; False reproduces the original.
    """
    height, width = x.shape[-2:]
    shorter = min(height, width)
    whole = (int(size * height / shorter), int(size * width / shorter))
    x = F.interpolate((x + 1) / 2, whole, mode="bicubic", align_corners=False, antialias=antialias)
    top, left = (round((side - size) / 2) for side in whole)
    return x[..., top : top + size, left : left + size]
