"""Distance of an edited image from its source: inside the mask by L1, SSIM and LPIPS, outside it by SSIM.

Distances inside are for editors that should keep what the text does not mention. Without a mask "inside" is the whole
image. ``background`` has L1 and LPIPS outside the mask.
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
GREY = 128


class SourceL1:
    """Mean |edited - source| over the pixels inside the mask and the channels, 0..255; None if there are none."""

    columns: ClassVar[Mapping[str, str]] = {"source_l1": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Return the metric; it needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``source_l1`` per entry of ``edited`` [B,H,W,3] uint8."""
        scores = BackgroundL1().score_batch(_inverted(batch), edited)
        return [{"source_l1": score["background_l1"]} for score in scores]


class SourceSsim:
    """Structural similarity (Wang et al. 2004) of edited and source inside the mask; 1 for equal images, at least -1.

    Computed per channel, then averaged over channels and over the mask's pixels whose window lies inside the image
    (windows at the mask's rim reach 5 px beyond it); None if there are none. Images smaller than the window are
    mirrored at their borders.
    """

    columns: ClassVar[Mapping[str, str]] = {"source_ssim": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Return the metric; it needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``source_ssim`` per entry of ``edited`` [B,H,W,3] uint8."""
        return [{"source_ssim": _ssim(*entry)} for entry in zip(batch.image, edited, batch.mask, strict=True)]


class SourceLpips:
    """Perceptual distance of edited and source, the outside of the mask mid-grey in both; None if the mask is empty.

    ``source_lpips_by`` names the network, as ``background_lpips_by`` does: ``vgg`` or ``alex`` for LPIPS with that
    trunk (weights of role ``lpips``), or ``clip`` for the uncalibrated distance on CLIP's features (role ``clip``).
    """

    columns: ClassVar[Mapping[str, str]] = {"source_lpips": "float64", "source_lpips_by": "string"}

    def __init__(self, outside: BackgroundLpips) -> None:
        self.outside = outside

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, net: Literal["vgg", "alex"] = "vgg") -> Self:
        """Load LPIPS's trunk ``net`` of role ``lpips``, or else the CLIP of role ``clip``.

        Raises:
            WeightsError: neither role is given, or its file does not load.
        """
        if not {"lpips", "clip"} & weights.keys():
            raise WeightsError(
                "metric source_lpips needs weights of role 'lpips' (a VGG16) or 'clip'; name one of them"
            )
        return cls(BackgroundLpips.load(weights, device, net))

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``source_lpips`` per entry of ``edited`` [B,H,W,3] uint8."""
        scores = self.outside.score_batch(_inverted(batch), edited)
        return [
            {"source_lpips": score["background_lpips"], "source_lpips_by": score["background_lpips_by"]}
            for score in scores
        ]


class BackgroundSsim:
    """Structural similarity of edited and source outside the mask, the inside mid-grey in both; -1..1.

    1 for equal backgrounds whatever the edit, because windows at the mask's rim see grey inside it in both images. So
    it is 1 for images that Retouch composed, and meant for those of other systems. None if the mask covers everything.
    """

    columns: ClassVar[Mapping[str, str]] = {"background_ssim": "float64"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str) -> Self:
        """Return the metric; it needs neither weights nor device."""
        return cls()

    def score_batch(self, batch: Batch, edited: Pixels) -> Sequence[Mapping[str, Any]]:
        """Return one ``background_ssim`` per entry of ``edited`` [B,H,W,3] uint8."""
        inside = batch.mask[..., None]
        grey = np.uint8(GREY)
        outside = replace(batch, image=np.where(inside, grey, batch.image), mask=~batch.mask)
        scores = SourceSsim().score_batch(outside, np.where(inside, grey, edited))
        return [{"background_ssim": score["source_ssim"]} for score in scores]


def _inverted(batch: Batch) -> Batch:
    """Return the batch with inverted masks: a distance inside is a background distance of the inverted mask."""
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
