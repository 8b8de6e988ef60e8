"""How much the network changed outside the mask, before compositing hides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from retouch.errors import WeightsError
from retouch.schema import Batch, Mask, Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from retouch.models.lpips import Distance


class BackgroundL1:
    """Mean |edited - source| over the pixels outside the mask and the channels, 0..255; None if there are none."""

    columns: ClassVar[Mapping[str, str]] = {"background_l1": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Return the metric; it needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``background_l1`` per entry of ``edited`` [B,H,W,3] uint8."""
        return [{"background_l1": _l1(*entry)} for entry in zip(batch.image, edited, ~batch.mask, strict=True)]


class BackgroundLpips:
    """Perceptual distance of edited and source, the mask's inside mid-grey in both; None if the mask covers everything.

    ``background_lpips_by`` names the network: ``vgg`` or ``alex`` for LPIPS with that trunk (weights of role
    ``lpips``), or ``clip`` for the uncalibrated distance on CLIP's features (role ``clip``), whose numbers compare only
    with each other.
    """

    columns: ClassVar[Mapping[str, str]] = {"background_lpips": "float64", "background_lpips_by": "string"}

    def __init__(self, distance: Distance, by: str, device: str = "cpu") -> None:
        self.distance = distance
        self.by = by
        self.device = device

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, net: Literal["vgg", "alex"] = "vgg") -> Self:
        """Load LPIPS's trunk ``net`` of role ``lpips``, or else the CLIP of role ``clip``.

        Raises:
            WeightsError: neither role is given, or its file does not load.
        """
        from retouch.models.clip import load_clip
        from retouch.models.lpips import clip_features_distance, load_lpips

        if "lpips" in weights:
            return cls(load_lpips(weights["lpips"], net, device), net, device)
        if "clip" in weights:
            return cls(clip_features_distance(load_clip(weights["clip"], device)), "clip", device)
        raise WeightsError(
            "metric background_lpips needs weights of role 'lpips' (a VGG16) or 'clip'; name one of them"
        )

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``background_lpips`` per entry of ``edited`` [B,H,W,3] uint8."""
        # One at a time: kernels round differently per batch size, and a score must not depend on its batch mates.
        scores = [self._score(*entry) for entry in zip(batch.image, edited, ~batch.mask, strict=True)]
        return [{"background_lpips": score, "background_lpips_by": self.by} for score in scores]

    def _score(self, image: Pixels, edited: Pixels, outside: Mask) -> float | None:
        import torch

        if not outside.any():
            return None
        keep = torch.tensor(outside).to(self.device)
        with torch.no_grad():
            return float(self.distance(self._tensor(image) * keep, self._tensor(edited) * keep)[0])

    def _tensor(self, pixels: Pixels) -> Tensor:
        """Return pixels [H,W,3] uint8 as [1,3,H,W] in [-1,1]."""
        import torch

        return torch.tensor(pixels).to(self.device).permute(2, 0, 1)[None] / 127.5 - 1


def _l1(image: Pixels, edited: Pixels, outside: Mask) -> float | None:
    if not outside.any():
        return None
    return float(np.abs(image[outside].astype(np.int16) - edited[outside].astype(np.int16)).mean())
