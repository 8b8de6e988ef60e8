"""DiffusionCLIP's losses: does an edit move an image the way one text differs from another. Knows no network.

Functions of raw CLIP embeddings and of images, differentiable. Each gives one number an entry, [B], so that entry i's
gradient depends on entry i alone; ``negative_log`` is elementwise, so a trainer chooses what it is taken of::

    negative_log(direction_loss(direction, source, edited))          # [B], each entry for itself
    negative_log(direction_loss(direction, source, edited).mean())   # of the batch's mean, as the original code

The two are equal for a batch of one, which is what the original trains with.

Source: Kim, Kwon, Ye 2022 (DiffusionCLIP), section 3.2; the direction is that of Gal et al. 2021 (StyleGAN-NADA).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.guidance import cosine_distance

# Beside the length of an edit: an image that did not move divides by this, not by zero. The original's number.
EPS = 1e-7

# Least share of which negative_log is taken. float32 knows a cosine to about 1e-7; below ten times that the share is
# rounding, and its logarithm's slope (1/share) would be noise times a million. Nothing is lost by a slope of zero
# there: at opposite directions the cosine has none either.
LEAST = 1e-6


def text_direction(source: Tensor, target: Tensor) -> Tensor:
    """Where the target text lies, seen from the source text: unit [1,D].

    Every embedding is brought to unit length, the differences are averaged over the templates, the average is brought
    to unit length. Two equal texts have no direction: it is zero, and every edit's loss is 1.

    Args:
        source: raw embeddings [T,D] of the source text in T templates.
        target: the same of the target text, in the same templates.
    """
    difference = (F.normalize(target, dim=-1) - F.normalize(source, dim=-1)).mean(dim=0, keepdim=True)
    return F.normalize(difference, dim=-1)


def direction_loss(direction: Tensor, image_source: Tensor, image_edited: Tensor) -> Tensor:
    """1 - cos of the angle between each edit and the text's direction, [B]; 0 along it, 1 across or no edit, 2 against.

    Args:
        direction: unit [1,D] or [B,D], of ``text_direction``.
        image_source: raw embeddings [B,D] of the images before the edit.
        image_edited: the same after it.
    """
    edit = F.normalize(image_edited, dim=-1) - F.normalize(image_source, dim=-1)
    length = torch.linalg.vector_norm(edit, dim=-1, keepdim=True)
    cosine: Tensor = (edit / (length + EPS) * direction).sum(dim=-1)
    return 1 - cosine


def negative_log(loss: Tensor) -> Tensor:
    """-log((2 - L) / 2) of a cosine loss L in 0..2, elementwise: steeper the further an edit has gone the wrong way.

    0 at L = 0, 0.288 at 0.5, 0.693 at 1, 1.386 at 1.5, and growing without bound towards L = 2; there it is held at
    -log(1e-6) = 13.8, with a slope of zero, so value and gradient are finite everywhere.
    """
    return -(1 - loss / 2).clamp(min=LEAST).log()


def global_loss(image: Tensor, text: Tensor) -> Tensor:
    """1 - cos of the angle between images and a text, [B]; 0 to 2.

    What the original optimises a latent by. As a loss for weights it invites adversarial images (section 3.2).

    Args:
        image: raw embeddings [B,D].
        text: raw embedding [1,D], or one an image, [B,D].
    """
    return cosine_distance(image, text)


def absolute_error(x: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of each image, [B]; what holds an edit near its source."""
    return (x - target).abs().flatten(1).mean(dim=1)


def clip_view(x: Tensor, size: int, antialias: bool = True) -> Tensor:
    """Images [B,3,H,W] in [-1,1] as CLIP's image tower is shown them: [B,3,size,size] in [0,1].

    Bicubic resize of the shorter side to ``size``, then the centre. Not normalised by CLIP's mean and deviation, and
    not clamped: bicubic overshoots at edges, and a clamp would have no gradient there.

    Args:
        size: CLIP's image size.
        antialias: average over the pixels that shrinking drops. False is what the original's environment computed.
    """
    height, width = x.shape[-2:]
    shorter = min(height, width)
    whole = (int(size * height / shorter), int(size * width / shorter))
    x = F.interpolate((x + 1) / 2, whole, mode="bicubic", align_corners=False, antialias=antialias)
    top, left = (round((side - size) / 2) for side in whole)
    return x[..., top : top + size, left : left + size]
