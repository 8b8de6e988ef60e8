"""Face landmarks, the FFHQ alignment square, and a face detector.

Coordinates are native pixels, x right and y down. "Left" is the left of the image, for an upright face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from retouch.errors import LoadError, WeightsError
from retouch.schema import Pixels

Points = npt.NDArray[np.float64]  # [N, 2], x and y

# By number of points: indices of the left eye, of the right eye, and of the left and right corner of the mouth. 5 are
# eye, eye, nose, corner, corner, as in YuNet, MTCNN and RetinaFace; 68 are the iBUG scheme, as in dlib.
_LAYOUTS: Final = {5: ([0], [1], [3, 4]), 68: (range(36, 42), range(42, 48), [48, 54])}

# The input size of the published file; some of OpenCV's engines run it at no other size.
_CANVAS: Final = 640
# Longer sides to which an image is scaled for detection, finest first. YuNet was trained on faces of 10 to 300 pixels:
# at 640 it finds faces of 2 to 47 % of the image, at 256 those that fill it.
_SIDES: Final = (640, 256)
# OpenCV's default. A missed face is a row with an error; a false one would be an edit of a wall.
_LEAST_SCORE: Final = 0.9
_MOST_OVERLAP: Final = 0.3  # OpenCV's default: two detections that overlap more are one face
_MOST_FACES: Final = 5000  # OpenCV's default


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Landmarks of one face."""

    points: Points  # [5, 2] or [68, 2]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Self:
        """Return landmarks from x0, y0, x1, y1, ... of 5 or 68 points.

        Raises:
            LoadError: another number of points, not finite, or in an order that makes no face.
        """
        numbers = np.array([float("nan") if value is None else float(value) for value in values])
        if len(numbers) // 2 not in _LAYOUTS or len(numbers) % 2 or not np.isfinite(numbers).all():
            raise LoadError(f"landmarks are {len(numbers)} numbers; expected x and y of 5 or 68 points, all finite")
        found = cls(numbers.reshape(-1, 2))
        if not found.is_face:
            raise LoadError(
                "landmarks make no face: the mouth is not below the eyes, or eyes and corners are not from left to "
                "right; 5 points are left eye, right eye, nose, left and right mouth corner as the image shows them"
            )
        return found

    @property
    def eyes(self) -> Points:
        """Return the centres of the left and the right eye, [2, 2]."""
        left, right, _ = _LAYOUTS[len(self.points)]
        return np.stack([self.points[list(left)].mean(axis=0), self.points[list(right)].mean(axis=0)])

    @property
    def mouth(self) -> Points:
        """Return the point between the corners of the mouth, [2]."""
        middle: Points = self.points[list(_LAYOUTS[len(self.points)][2])].mean(axis=0)
        return middle

    @property
    def centre(self) -> Points:
        """Return the point between eyes and mouth, [2]."""
        middle: Points = (self.eyes.mean(axis=0) + self.mouth) / 2
        return middle

    @property
    def is_face(self) -> bool:
        """Return whether the mouth is below the eyes once the face is rotated so that they are level."""
        across, down = self.eyes[1] - self.eyes[0], self.mouth - self.eyes.mean(axis=0)
        return bool(across[0] * down[1] - across[1] * down[0] > 0)


def ffhq_quad(landmarks: Landmarks) -> Points:
    """Return the rotated square of FFHQ's face alignment (Karras et al., StyleGAN, 2019, appendix A).

    Args:
        landmarks: of a face (``is_face``).

    Returns:
        [4, 2]: corners at the top left, bottom left, bottom right, top right of the face.
    """
    eyes = landmarks.eyes
    eye_to_eye, eye_avg = eyes[1] - eyes[0], eyes.mean(axis=0)
    eye_to_mouth = landmarks.mouth - eye_avg
    x = eye_to_eye - _rot90(eye_to_mouth)
    x *= max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth)) / np.hypot(*x)
    y = _rot90(x)
    c = eye_avg + 0.1 * eye_to_mouth
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def _rot90(vector: Points) -> Points:
    """Return the vector rotated clockwise by 90 degrees in the image."""
    return np.array([-vector[1], vector[0]])


class FaceDetector:
    """YuNet (Wu et al., 2023) in OpenCV: finds small faces to full portraits, with five landmarks each."""

    def __init__(self, network: Any) -> None:
        self._network = network  # cv2.FaceDetectorYN

    @classmethod
    def load(cls, path: str) -> FaceDetector:
        """Return a detector from OpenCV's ONNX file of YuNet (``face_detection_yunet_2023mar.onnx``, 230 kB).

        Raises:
            WeightsError: not readable, or another network.
        """
        import cv2  # slow to import, and only jobs with ``fit: face`` need it

        cv2.setNumThreads(1)  # a worker has one core
        size = (_CANVAS, _CANVAS)
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the exception below reports it
        try:
            data = np.fromfile(path, np.uint8)
            network = cv2.FaceDetectorYN.create(
                "onnx", data, np.empty(0, np.uint8), size, _LEAST_SCORE, _MOST_OVERLAP, _MOST_FACES
            )
            network.detect(np.zeros((*size, 3), np.uint8))  # only a forward pass shows whether it is YuNet
        except (cv2.error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else "OpenCV cannot run it as one"
            raise WeightsError(
                f"{Path(path).name} is no YuNet face detector ({reason}); "
                "give face_detection_yunet_2023mar.onnx of OpenCV's model zoo, the file itself and not its LFS pointer"
            ) from None
        finally:
            cv2.utils.logging.setLogLevel(level)
        return cls(network)

    def detect(self, pixels: Pixels) -> list[Landmarks]:
        """Return the faces in an image [H, W, 3], in no particular order, with five landmarks each."""
        longer = max(pixels.shape[:2])
        found: list[Landmarks] = []
        boxes: list[npt.NDArray[np.float64]] = []
        for side in sorted({min(side, longer) for side in _SIDES}, reverse=True):
            for box, landmarks in self._detect_at(pixels, side / longer):
                # Faces found at a finer scale are kept as found there.
                if landmarks.is_face and not any(_contains(other, landmarks.centre) for other in boxes):
                    found.append(landmarks)
                    boxes.append(box)
        return found

    def _detect_at(self, pixels: Pixels, scale: float) -> list[tuple[npt.NDArray[np.float64], Landmarks]]:
        """Return boxes (x, y, width, height) and landmarks, detected at ``scale``, in native pixels."""
        height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
        canvas = np.zeros((_CANVAS, _CANVAS, 3), np.uint8)
        scaled = Pillow.fromarray(pixels).resize((width, height), Pillow.Resampling.BOX)
        canvas[:height, :width] = np.asarray(scaled)[..., ::-1]  # to BGR
        _, rows = self._network.detect(canvas)
        native = np.array([pixels.shape[1] / width, pixels.shape[0] / height])
        found = []
        for row in np.zeros((0, 15)) if rows is None else rows.astype(np.float64):
            points = (row[4:14].reshape(5, 2) + 0.5) * native - 0.5
            found.append((row[:4] * [*native, *native], Landmarks(points)))
        return found


def _contains(box: npt.NDArray[np.float64], point: Points) -> bool:
    x, y, width, height = box
    return bool(x <= point[0] <= x + width and y <= point[1] <= y + height)
