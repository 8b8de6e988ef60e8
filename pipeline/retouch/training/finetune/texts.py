"""Turns pairs of texts into what the losses compare with: a direction and a target per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.diffusion.clip_losses import text_direction
from retouch.models.prompt_templates import PLAIN, fill, imagenet_templates

EncodeText = Callable[[Sequence[str]], Tensor]  # N texts -> raw embeddings [N,D]


@dataclass(frozen=True)
class Texts:
    """The texts of an image: what it shows, and what it should show."""

    source: str
    target: str


def directions(pairs: Sequence[Texts], encode: EncodeText, templates: str) -> tuple[Tensor, Tensor]:
    """Return unit directions and raw-scale targets, both [N,D], of N images.

    Args:
        pairs: each image's texts; equal pairs are encoded once.
        encode: CLIP's text tower.
        templates: ``imagenet``: each text in 79 phrasings; ``none``: as written.
    """
    encoded: dict[Texts, tuple[Tensor, Tensor]] = {}
    for pair in pairs:
        if pair not in encoded:
            encoded[pair] = _encode(pair, encode, imagenet_templates() if templates == "imagenet" else PLAIN)
    found = [encoded[pair] for pair in pairs]
    return torch.cat([direction for direction, _ in found]), torch.cat([target for _, target in found])


def _encode(pair: Texts, encode: EncodeText, templates: Sequence[str]) -> tuple[Tensor, Tensor]:
    # One at a time: an embedding must not depend on what else is in its batch.
    source, target = (
        torch.cat([encode([text]) for text in fill(templates, words)]).float() for words in (pair.source, pair.target)
    )
    return text_direction(source, target), F.normalize(target, dim=-1).mean(dim=0, keepdim=True)
