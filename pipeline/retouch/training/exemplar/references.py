"""The reference of a training sample: its box cropped and augmented, so that copying it does not help.

The published recipe (Yang et al. 2022, section 3.2, its library's version 0.4.3): resize, then flip, rotation, blur and
elastic warp, each with its own probability. Only the affine part of the warp is applied: its displacement field (alpha
1, smoothed over 50 pixels) moves no pixel by a hundredth.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from retouch.schema import Pixels
from retouch.training.exemplar.boxes import Box

FLIP: Final = 0.5  # probability
TURN: Final = 0.5
TURN_DEGREES: Final = 20.0  # to either side
BLUR: Final = 0.3
BLUR_WIDTHS: Final = (3, 5, 7)  # pixels of the box filter
WARP: Final = 0.3
WARP_SHARE: Final = 50 / 224  # of the side: the most that each of three points moves, per axis and direction


def cropped(image: Pixels, box: Box, size: int) -> Pixels:
    """Return the box of an image [H, W, 3], squashed to [size, size, 3]."""
    x0, y0, x1, y1 = box
    part = np.ascontiguousarray(image[y0:y1, x0:x1])
    return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def augmented(reference: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a reference [S, S, 3] randomly flipped, rotated, blurred and warped, with mirrored borders.

    All numbers are always drawn, so that changing one setting leaves the others' numbers as they are.
    """
    chances = rng.random(4)
    degrees = rng.uniform(-TURN_DEGREES, TURN_DEGREES)
    width = BLUR_WIDTHS[rng.integers(len(BLUR_WIDTHS))]
    moves = rng.uniform(-WARP_SHARE, WARP_SHARE, (3, 2)) * len(reference)
    if chances[0] < FLIP:
        reference = np.ascontiguousarray(reference[:, ::-1])
    if chances[1] < TURN:
        middle = (len(reference) - 1) / 2
        reference = _mapped(reference, cv2.getRotationMatrix2D((middle, middle), degrees, 1.0))
    if chances[2] < BLUR:
        reference = np.asarray(cv2.blur(reference, (width, width), borderType=cv2.BORDER_REFLECT_101), np.uint8)
    if chances[3] < WARP:
        reference = _mapped(reference, warp(len(reference), moves))
    return reference


def warp(size: int, moves: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the affine map [2, 3] that moves three points around the middle by ``moves`` [3, 2] pixels."""
    middle, offset = size // 2, size // 3
    low, high = middle - offset, middle + offset
    corners = ((high, high), (high, low), (low, low))
    points = np.array(corners, np.float32)
    return np.asarray(cv2.getAffineTransform(points, points + moves.astype(np.float32)), np.float64)


def _mapped(image: Pixels, matrix: object) -> Pixels:
    size = (image.shape[1], image.shape[0])
    matrix = np.asarray(matrix, np.float64)
    mapped = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(mapped, np.uint8)
