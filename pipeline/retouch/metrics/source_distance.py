"""How far an edit took an image from its source, inside the mask. Knows neither editors nor files.

For editors whose promise is to keep what the text does not speak of. Without a mask "inside" is the whole image; what
happens outside of one is ``background``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np

from retouch.errors import WeightsError
from retouch.metrics.background import BackgroundL1, BackgroundLpips
from retouch.schema import Batch, Mask, Pixels

# Of Wang et al. 2004: Gaussian weights of sigma 1.5 in a window of 11 px; variances without Bessel's correction.
SIGMA = 1.5
WINDOW = 11


class SourceL1:
    """Mean |edited - source| over the pixels inside the mask and the three channels, 0..255; None where none are."""

    columns: ClassVar[Mapping[str, str]] = {"source_l1": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """One ``source_l1`` an entry; ``edited`` [B,H,W,3] uint8."""
        scores = BackgroundL1().score_batch(_turned(batch), edited)
        return [{"source_l1": score["background_l1"]} for score in scores]


class SourceSsim:
    """Structural similarity (Wang et al. 2004) of edited and source inside the mask; 1 for equal images, at least -1.

    Each channel by itself, then their mean. The average is over the mask's pixels whose window lies inside the image
    (windows at the mask's rim see 5 px beyond it); None where there are none. Images smaller than the window are
    mirrored at their borders.
    """

    columns: ClassVar[Mapping[str, str]] = {"source_ssim": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """One ``source_ssim`` an entry; ``edited`` [B,H,W,3] uint8."""
        return [{"source_ssim": _ssim(*entry)} for entry in zip(batch.image, edited, batch.mask, strict=True)]


class SourceLpips:
    """Perceptual distance of edited and source, the outside of the mask mid-grey in both; None where it has no pixel.

    ``source_lpips_by`` says what measured it, as ``background_lpips_by`` does: ``vgg`` or ``alex`` for LPIPS with that
    trunk (weights of role ``lpips``), or ``clip`` for the uncalibrated distance on CLIP's features (role ``clip``).
    """

    columns: ClassVar[Mapping[str, str]] = {"source_lpips": "float64", "source_lpips_by": "string"}

    def __init__(self, outside: BackgroundLpips) -> None:
        self.outside = outside

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, net: Literal["vgg", "alex"] = "vgg") -> Self:
        """Read LPIPS's trunk ``net`` of role ``lpips``, or else the CLIP of role ``clip``.

        Raises:
            WeightsError: there is neither, or what there is does not load.
        """
        if not {"lpips", "clip"} & weights.keys():
            raise WeightsError(
                "metric source_lpips needs weights of role 'lpips' (a VGG16) or 'clip'; name one of them"
            )
        return cls(BackgroundLpips.load(weights, device, net))

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """One ``source_lpips`` an entry; ``edited`` [B,H,W,3] uint8."""
        scores = self.outside.score_batch(_turned(batch), edited)
        return [
            {"source_lpips": score["background_lpips"], "source_lpips_by": score["background_lpips_by"]}
            for score in scores
        ]


def _turned(batch: Batch) -> Batch:
    """With inside and outside exchanged: a distance inside is the background's of the other mask."""
    return replace(batch, mask=~batch.mask)


def _ssim(image: Pixels, edited: Pixels, mask: Mask) -> float | None:
    side = min(*mask.shape, WINDOW)
    window = side - (side + 1) % 2
    inside = mask.copy()
    if border := window // 2:
        inside[:border] = inside[-border:] = inside[:, :border] = inside[:, -border:] = False
    if not inside.any():
        return None
    from skimage.metrics import structural_similarity

    _, similarity = structural_similarity(
        image,
        edited,
        win_size=window,
        gaussian_weights=True,
        sigma=SIGMA,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
        full=True,
    )
    return float(cast(np.ndarray[Any, np.dtype[np.float64]], similarity)[inside].mean())
