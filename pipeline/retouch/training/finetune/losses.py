"""The loss terms of a fine-tuned image: direction, target, distance from the source, identity.

Every term is one number per image, [B]; the trainer averages their weighted sum over the batch. Views of an image and
of its source are warped alike, so that a direction compares the same framing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.augment import Augmentation, extended
from retouch.diffusion.clip_losses import clip_view, direction_loss, global_loss, negative_log
from retouch.diffusion.guidance import range_loss
from retouch.diffusion.noise import Noise
from retouch.jobs.finetune_params import FinetuneParams

Encode = Callable[[Tensor], Tensor]  # images [B,3,size,size] in [0, 1] -> raw embeddings [B,D]
Identity = Callable[[Tensor, Tensor], Tensor]  # edited and source [B,3,S,S] in [-1, 1] -> [B]


@dataclass(frozen=True)
class LossInputs:
    """What a batch of edited images is compared with: sources, masks, texts, and the views' seeds."""

    x0: Tensor  # [B,3,S,S] in [-1, 1]
    mask: Tensor  # [B,1,S,S], 1 = may change
    direction: Tensor  # [B,D] unit
    target: Tensor  # [B,D] raw
    seeds: Sequence[int]


@dataclass(frozen=True)
class Losses:
    """The loss terms of a job."""

    params: FinetuneParams
    encode: Encode
    clip_size: int
    identity: Identity | None = None
    ranges: Augmentation = field(default_factory=Augmentation)

    def terms(self, x: Tensor, inputs: LossInputs, identity_of: Tensor | None = None) -> dict[str, Tensor]:
        """Return each term [B] whose weight is not 0, unweighted, by name.

        Args:
            x: [B,3,S,S], differentiable.
            inputs: what x is compared with.
            identity_of: the image that the identity term compares, if that is not x.
        """
        p = self.params
        found: dict[str, Tensor] = {}
        edited = self._embeddings(x, inputs)
        if p.direction_weight:
            with torch.no_grad():
                source = self._embeddings(inputs.x0, inputs)
            losses = direction_loss(_each(inputs.direction, p.views), source.flatten(0, 1), edited.flatten(0, 1))
            found["direction"] = self._form(losses).view(len(x), -1).mean(dim=1)
        if p.global_weight:
            losses = global_loss(edited.flatten(0, 1), _each(inputs.target, p.views))
            found["global"] = losses.view(len(x), -1).mean(dim=1)
        if p.l1_weight:
            weight = 1 - (1 - p.l1_inside) * inputs.mask
            found["l1"] = ((x - inputs.x0).abs() * weight).flatten(1).mean(dim=1)
        if p.range_weight:
            found["range"] = range_loss(x)
        if p.identity_weight and self.identity is not None:
            found["identity"] = self.identity(x if identity_of is None else identity_of, inputs.x0)
        return found

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms, [B]."""
        weighted = [getattr(self.params, f"{name}_weight") * value for name, value in terms.items()]
        return torch.stack(weighted).sum(dim=0)

    def _form(self, losses: Tensor) -> Tensor:
        return negative_log(losses) if self.params.direction_form == "log" else losses

    def _embeddings(self, x: Tensor, inputs: LossInputs) -> Tensor:
        """Return raw embeddings of every view, [B,views,D]."""
        p = self.params
        if p.resize == "area":
            large, mask = F.adaptive_avg_pool2d(x, self.clip_size), F.adaptive_avg_pool2d(inputs.mask, self.clip_size)
        else:
            large = 2 * clip_view(x, self.clip_size, p.antialias) - 1
            mask = F.interpolate(inputs.mask, self.clip_size, mode="nearest")
        # New generators on each call, because edit and source must draw the same views.
        draws = Noise(inputs.seeds, x.device)
        parts = [(large, p.views - p.masked_views), (large * mask, p.masked_views)]
        views = [
            extended(part, count, draws, self.ranges).view(len(x), count, *large.shape[1:])
            for part, count in parts
            if count
        ]
        pixels = (torch.cat(views, dim=1).flatten(0, 1) + 1) / 2
        return self.encode(pixels).view(len(x), p.views, -1)


def _each(texts: Tensor, views: int) -> Tensor:
    return texts.repeat_interleave(views, dim=0)
