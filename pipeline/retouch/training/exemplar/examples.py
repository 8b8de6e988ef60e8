"""Makes one training example, target, hole and reference, from an image with boxes (Yang et al. 2022, 3.2 and 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from retouch.errors import LoadError
from retouch.jobs.train_params import TrainParams
from retouch.schema import Pixels
from retouch.training.exemplar.boxes import RandomDraws, extended, padded, square_window, usable
from retouch.training.exemplar.mask_shapes import box_hole, free_hole
from retouch.training.exemplar.references import augmented, cropped


class NoBox(LoadError):
    """An image without a box of a usable size: the row is skipped and does not count as a failure."""


@dataclass(frozen=True)
class Sizes:
    """Side lengths in pixels of the networks' inputs."""

    image: int
    reference: int


@dataclass(frozen=True)
class Example:
    """One training example; S and R are the sizes in ``Sizes``."""

    target: Tensor  # [3,S,S] float32 in [-1, 1]: the expected output
    keep: Tensor  # [1,S,S] float32, 1 = keep, 0 = hole; in between on the hole's edge, as published
    reference: Tensor  # [3,R,R] float32 in [0, 1]


def make_example(
    image: Pixels, boxes: Sequence[Sequence[float]], params: TrainParams, sizes: Sizes, rng: np.random.Generator
) -> Example:
    """Return an example of a randomly chosen box.

    Args:
        image: [H, W, 3].
        boxes: x0, y0, x1, y1 each, as ``boxes.usable`` reads them.
        params: the job's params.
        sizes: side lengths of the results.
        rng: the only source of randomness; not shared with another example.

    Raises:
        NoBox: no box has a usable size.
    """
    height, width = image.shape[:2]
    found = usable(boxes, width, height, params.min_area, params.max_area)
    if not found:
        share = f"{params.min_area:.0%} to {params.max_area:.0%} of the image"
        raise NoBox(f"none of {len(boxes)} boxes has {share}")
    box = found[rng.integers(len(found))]
    reference = cropped(image, padded(box, params.reference_pad, width, height), sizes.reference)
    if params.augmentation:
        reference = augmented(reference, rng)
    draws = RandomDraws(rng)
    wide = extended(draws, box, width, height)
    if rng.random() < params.arbitrary_mask_percent:
        hole = free_hole(draws, box, wide, width, height, params.bezier, params.jitter)
    else:
        hole = box_hole(wide, width, height)
    x0, y0, x1, y1 = square_window(draws, wide, width, height)
    target = torch.from_numpy(np.ascontiguousarray(image[y0:y1, x0:x1])).permute(2, 0, 1).float() / 127.5 - 1
    keep = torch.from_numpy(~hole[y0:y1, x0:x1])[None].float()
    return Example(
        target=_resized(target, sizes.image, params.antialias).clamp(-1, 1),
        keep=_resized(keep, sizes.image, antialias=False),
        reference=torch.from_numpy(reference).permute(2, 0, 1).float() / 255,
    )


def _resized(x: Tensor, size: int, antialias: bool) -> Tensor:
    return F.interpolate(x[None], (size, size), mode="bilinear", align_corners=False, antialias=antialias)[0]
