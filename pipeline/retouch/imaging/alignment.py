"""Measure how far an edit is shifted against its source, and move it back."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from retouch.schema import Mask, Pixels

Shift = tuple[float, float]  # pixels to the right and down by which the edit lies beside its source
SMALLEST: Final = 0.5  # pixels; resampling costs more sharpness than a smaller shift costs fit
MAX_SHARE: Final = 0.25  # of the shorter side; what lies further away is another picture
MIN_CORRELATION: Final = 0.5  # of the aligned images outside the mask; with less, another picture was painted
MIN_SHARE: Final = 0.05  # of the image that must be outside the mask
_MIN_CONTRAST: Final = 2.0  # standard deviation in levels; below it there is nothing to compare
_ITERATIONS: Final = 50
_PRECISION: Final = 1e-4  # of the correlation, between two iterations


def measure(source: Pixels, edited: Pixels, outside: Mask) -> Shift | None:
    """Return the shift of an edit against its source in pixels, to a fraction of a pixel.

    By whole pixels from the masked phase correlation (Padfield 2012), then by maximizing the enhanced correlation
    coefficient (Evangelidis and Psarakis 2008).

    Args:
        source: [H, W, 3].
        edited: [H, W, 3].
        outside: [H, W], the pixels that the edit should have kept; all True for an edit of the whole image.

    Returns:
        None if too little is outside, the source is flat there, or the edit does not resemble it.
    """
    import cv2
    from skimage.registration import phase_cross_correlation

    if outside.mean() < MIN_SHARE:
        return None
    grey, other = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) for pixels in (source, edited))
    if min(grey[outside].std(), other[outside].std()) < _MIN_CONTRAST:
        return None
    back, _, _ = phase_cross_correlation(grey, other, reference_mask=outside, moving_mask=outside)
    warp = np.array([[1, 0, -back[1]], [0, 1, -back[0]]], np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, _PRECISION)
    try:
        correlation, found = cv2.findTransformECC(
            grey, other, warp, cv2.MOTION_TRANSLATION, criteria, outside.astype(np.uint8), 3
        )
    except cv2.error:  # it does not converge
        return None
    shift = float(found[0, 2]), float(found[1, 2])
    is_same = correlation >= MIN_CORRELATION and math.hypot(*shift) <= MAX_SHARE * min(grey.shape)
    return shift if is_same else None


def compared(mask: Mask) -> Mask:
    """Return the pixels [H, W] that an edit should have kept: outside the mask, or all if the mask is everything."""
    return np.ones_like(mask) if mask.all() else ~mask


def moved_back(edited: Pixels, shift: Shift | None) -> Pixels:
    """Return the edit [H, W, 3] moved back by a shift; itself if that is under ``SMALLEST`` pixels or not known."""
    import cv2

    if shift is None or math.hypot(*shift) < SMALLEST:
        return edited
    warp = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    height, width = edited.shape[:2]
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(edited, warp, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101))
