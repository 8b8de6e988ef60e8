"""Classical inpainting as an editor: fills a region in from its border, without a network or weights.

After Telea 2004 (fast marching) and Bertalmio et al. 2001 (Navier-Stokes), in OpenCV's implementations. It works for
scratches, wires and stamps on smooth ground, not for what lies behind a large object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import cv2
import numpy as np
from pydantic import with_config
from retouch.errors import ConfigError
from retouch.schema import Batch, EditResult, Mask, Pixels

FLAGS = {"telea": cv2.INPAINT_TELEA, "navier-stokes": cv2.INPAINT_NS}


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class InpaintParams:
    """How a region is filled in; a job's ``editor.params``, and a row's own in its ``params`` column.

    Raises:
        ConfigError: a value out of its range.
    """

    method: Literal["telea", "navier-stokes"] = "telea"
    """navier-stokes continues lines; telea is smoother."""
    radius: float = 5.0
    """Pixels around each pixel that decide its colour."""
    size: int = 512
    """Height and width of the images it works on; a larger image is cropped around its mask, or resized."""

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ConfigError(f"radius is {self.radius}; give more than 0, 3 to 10 serve")
        if self.size < 8:
            raise ConfigError(f"size is {self.size}; give 8 or more")


class Inpaint:
    """Fills the mask in from its border."""

    version: ClassVar[str] = "1"  # raise it when the pixels change: finished rows are then edited again
    inputs: ClassVar[frozenset[str]] = frozenset({"mask"})
    Params: ClassVar[type] = InpaintParams
    rank_by: ClassVar[str | None] = None  # all candidates are equal
    columns: ClassVar[Mapping[str, str]] = {"seam": "float64"}

    def __init__(self, params: InpaintParams) -> None:
        self.params, self.image_size = params, params.size

    @classmethod
    def load(cls, params: InpaintParams, weights: Mapping[str, str], device: str) -> Self:
        """Return the editor; ``weights`` (role to local file) is empty."""
        return cls(params)

    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, from the entry's own pixels, mask and params alone."""
        params = dataclasses.replace(self.params, **batch.params)  # the row's override the job's
        return [_filled(image, mask, params) for image, mask in zip(batch.image, batch.mask, strict=True)]


def _filled(image: Pixels, mask: Mask, params: InpaintParams) -> EditResult:
    hole = mask.astype(np.uint8)
    filled = cv2.inpaint(image, hole, params.radius, FLAGS[params.method])
    return EditResult(filled.astype(np.uint8), {"seam": _seam(filled, hole)})


def _seam(image: Any, hole: Any) -> float:
    """Return how visible the border of the hole is: the mean Laplacian along it, in levels; 0 without a border."""
    border = cv2.morphologyEx(hole, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
    edges = np.abs(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F))
    return float(edges[border].mean()) if border.any() else 0.0
