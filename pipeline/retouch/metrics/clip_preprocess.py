"""CLIP's own image preprocessing, and CLIP's embedding of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import numpy.typing as npt

from retouch.errors import EditError
from retouch.schema import Pixels

if TYPE_CHECKING:
    from torch import Tensor

    from retouch.models.clip import Clip

# Part of metrics' ids: numbers of another preprocessing are not comparable.
CENTRE: Final = "shorter side to {size} px (bicubic, antialiased, 256 levels), centre square"


def clip_image(pixels: Pixels, clip: Clip, how: Literal["centre", "squash"]) -> Tensor:
    """Return an image [H,W,3] as [1,3,S,S] in [0,1]: resized bicubically with antialiasing, to Pillow's 256 levels.

    ``centre``: the shorter side becomes S and the longer is cropped to its middle, as OpenAI's transform does.
    ``squash``: the whole image, without keeping its proportions.
    """
    import torch
    from torch.nn.functional import interpolate

    size = clip.image_size
    height, width = pixels.shape[:2]
    high = wide = size
    if how == "centre":
        high, wide = (size, size * width // height) if height <= width else (size * height // width, size)
    x = torch.tensor(pixels).permute(2, 0, 1)[None]
    if (height, width) != (high, wide):
        # On uint8, on the CPU: torch then rounds in between as Pillow does, and every device sees the same image.
        x = interpolate(x, (high, wide), mode="bicubic", align_corners=False, antialias=True)
    top, left = round((high - size) / 2), round((wide - size) / 2)
    return x[:, :, top : top + size, left : left + size].to(clip.device) / 255


def clip_features(clip: Clip, pixels: Pixels) -> npt.NDArray[np.float32]:
    """Return CLIP's image embedding [D], unnormalised, of an image's centre square.

    Raises:
        EditError: the embedding is not finite.
    """
    import torch

    with torch.no_grad():
        found: npt.NDArray[np.float32] = clip.encode_image(clip_image(pixels, clip, "centre"))[0].cpu().numpy()
    if not np.isfinite(found).all():
        raise EditError("the image's CLIP features are not finite")
    return found
