"""What a fine-tuned image is asked for: direction, target, likeness, identity. Knows no network but by its function.

Every term is one number an image, [B]; the total is their weighted sum, averaged over the batch by the trainer. Views
of an image and of its source are warped alike, so that a direction compares the same framing.
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
class Asked:
    """One batch's side of the losses that does not change: sources, masks, texts, and the views' seeds."""

    x0: Tensor  # [B,3,S,S] in [-1, 1]
    mask: Tensor  # [B,1,S,S], 1 = may change
    direction: Tensor  # [B,D] unit
    target: Tensor  # [B,D] raw
    seeds: Sequence[int]


@dataclass(frozen=True)
class Losses:
    """The terms of a job."""

    params: FinetuneParams
    encode: Encode
    clip_size: int
    identity: Identity | None = None
    ranges: Augmentation = field(default_factory=Augmentation)

    def terms(self, x: Tensor, asked: Asked, identity_of: Tensor | None = None) -> dict[str, Tensor]:
        """Each term [B] that has weight, unweighted, by name.

        Args:
            x: [B,3,S,S], differentiable.
            asked: what it is compared with.
            identity_of: the image that the identity term looks at, where that is not x.
        """
        p = self.params
        found: dict[str, Tensor] = {}
        seen = self._embedded(x, asked)
        if p.direction_weight:
            with torch.no_grad():
                before = self._embedded(asked.x0, asked)
            losses = direction_loss(_each(asked.direction, p.views), before.flatten(0, 1), seen.flatten(0, 1))
            found["direction"] = self._form(losses).view(len(x), -1).mean(dim=1)
        if p.global_weight:
            found["global"] = global_loss(seen.flatten(0, 1), _each(asked.target, p.views)).view(len(x), -1).mean(dim=1)
        if p.l1_weight:
            weight = 1 - (1 - p.l1_inside) * asked.mask
            found["l1"] = ((x - asked.x0).abs() * weight).flatten(1).mean(dim=1)
        if p.range_weight:
            found["range"] = range_loss(x)
        if p.identity_weight and self.identity is not None:
            found["identity"] = self.identity(x if identity_of is None else identity_of, asked.x0)
        return found

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Their weighted sum, [B]."""
        weighted = [getattr(self.params, f"{name}_weight") * value for name, value in terms.items()]
        return torch.stack(weighted).sum(dim=0)

    def _form(self, losses: Tensor) -> Tensor:
        return negative_log(losses) if self.params.direction_form == "log" else losses

    def _embedded(self, x: Tensor, asked: Asked) -> Tensor:
        """Raw embeddings of every view, [B,views,D]."""
        p = self.params
        if p.resize == "area":
            large, mask = F.adaptive_avg_pool2d(x, self.clip_size), F.adaptive_avg_pool2d(asked.mask, self.clip_size)
        else:
            large = 2 * clip_view(x, self.clip_size, p.antialias) - 1
            mask = F.interpolate(asked.mask, self.clip_size, mode="nearest")
        # Made anew each time: edit and source must draw the same views.
        draws = Noise(asked.seeds, x.device)
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
