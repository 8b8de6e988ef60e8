"""Choose the part of an image that the network sees: by the mask, or by a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from retouch.errors import NoFace
from retouch.imaging.faces import FaceDetector, Landmarks, ffhq_quad
from retouch.imaging.quad import Quad
from retouch.imaging.regions import CONTEXT, View, fit_region
from retouch.schema import Mask, Pixels

Fit = Literal["auto", "crop", "resize", "face"]
ROLE: Final = "face_detector"  # of the editor's weights


def detector_for(fit: Fit, files: Mapping[str, str]) -> FaceDetector | None:
    """Return the face detector of a job's weights (role to local file); None if ``fit`` is not face or none is named.

    Raises:
        WeightsError: the file is no face detector.
    """
    return FaceDetector.load(files[ROLE]) if fit == "face" and ROLE in files else None


def frame(
    source: Pixels,
    mask: Mask,
    size: int,
    fit: Fit,
    *,
    landmarks: Sequence[float] | None = None,
    detector: FaceDetector | None = None,
    context: float = CONTEXT,
    feather: int = 0,
) -> View:
    """Return the part of an image that the network sees.

    Args:
        source: [H, W, 3].
        mask: [H, W], True where the image is edited.
        size: S, the network's height and width.
        fit: ``face`` is the FFHQ square of the row's landmarks, or of a face that the detector finds; the others are
            ``regions.fit_region``'s.
        landmarks: of the row's face: x0, y0, x1, y1, ... in pixels of the source.
        detector: finds the face if there are no landmarks.
        context: see ``regions.fit_region``.
        feather: pixels of the source over which the edit fades in, from the mask's edge inwards.

    Raises:
        LoadError: landmarks that make no face.
        NoFace: no landmarks and no detector, no face found, or none that the mask lets be edited.
    """
    if fit != "face":
        return replace(fit_region(mask, size, mode=fit, context=context), feather=feather)
    if landmarks is not None:
        faces = [Landmarks.of(landmarks)]
    elif detector is not None:
        faces = detector.detect(source)
    else:
        raise NoFace(
            f"the row has no landmarks, and the job's editor.weights name no {ROLE}; give either, or use fit: resize"
        )
    if not faces:
        raise NoFace("no face was found; give the row landmarks, or use fit: resize")
    return replace(_choose(faces, mask), feather=feather)


def _choose(faces: list[Landmarks], mask: Mask) -> Quad:
    """Return the square of the largest face with its centre in the mask, else the one that holds most of the mask.

    Raises:
        NoFace: no square holds any of the mask.
    """
    quads = [(face, Quad.of(ffhq_quad(face))) for face in faces]
    best = max(quads, key=lambda pair: _fitness(pair[0], pair[1], mask))[1]
    if not _mask_pixels_in(best, mask):
        raise NoFace("no face lies where the mask is white; mask a face, leave the mask out, or use fit: crop")
    return best


def _fitness(face: Landmarks, quad: Quad, mask: Mask) -> tuple[bool, float]:
    return (True, quad.side) if _is_centred(face, mask) else (False, _mask_pixels_in(quad, mask))


def _mask_pixels_in(quad: Quad, mask: Mask) -> int:
    return int((mask & quad.footprint((mask.shape[0], mask.shape[1]))).sum())


def _is_centred(face: Landmarks, mask: Mask) -> bool:
    x, y = np.floor(face.centre + 0.5).astype(int)
    height, width = mask.shape
    return bool(0 <= x < width and 0 <= y < height and mask[y, x])
