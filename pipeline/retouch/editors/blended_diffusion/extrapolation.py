"""Text-guided extrapolation (Avrahami et al. 2022, section 5): grow an image sideways with any masked text editor.

Shift the image out of the editor's window, fill the uncovered strip by reflection, mask it, edit, and repeat. Only
strips are taken from the editor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from retouch.diffusion.noise import derive_seed
from retouch.errors import ConfigError
from retouch.plugins import Editor
from retouch.schema import Batch, Mask, Pixels

__all__ = ["Side", "extrapolate", "shifted"]

Side = Literal["left", "right"]


def extrapolate(
    editor: Editor,
    image: Pixels,
    prompts: Mapping[Side, str],
    *,
    strips: int,
    strip: int | None = None,
    seed: int = 0,
) -> Pixels:
    """Return the image, wider by ``strips * strip`` pixels on each side that has a prompt.

    Args:
        editor: any editor that reads a mask and a prompt; its window is ``image_size`` square.
        image: [H,W,3] uint8, H the editor's image size, W at least the window less a strip.
        prompts: what lies beyond each side ("hell" to the left, "heaven" to the right).
        strips: edits on each side that has a prompt.
        strip: width of each, at most (window - 1) / 2; default: a quarter of the window.
        seed: seed of the image; every strip derives its own.

    Returns:
        [H, W + sides * strips * strip, 3] uint8; the original pixels are unchanged.

    Raises:
        ConfigError: a size that does not fit.
    """
    size = editor.image_size
    strip = size // 4 if strip is None else strip
    _check(image, size, strip, prompts)
    sides: list[Side] = sorted(prompts)
    grown = image
    for k in range(strips):
        windows = [shifted(grown, side, size, strip) for side in sides]
        results = editor.edit_batch(
            Batch(
                image=np.stack([window for window, _ in windows]),
                mask=np.stack([mask for _, mask in windows]),
                prompt=[prompts[side] for side in sides],
                seed=[derive_seed(seed, "extrapolate", side, k) for side in sides],
            )
        )
        for side, result in zip(sides, results, strict=True):
            new = result.image[:, -strip:] if side == "right" else result.image[:, :strip]
            grown = np.concatenate([grown, new] if side == "right" else [new, grown], axis=1)
    return grown


def shifted(image: Pixels, side: Side, size: int, strip: int) -> tuple[Pixels, Mask]:
    """Return the window at one side's end, moved outwards by a strip, and the mask of the uncovered strip.

    Returns:
        [size,size,3] uint8, the strip filled by reflection, and [size,size] bool.
    """
    mask = np.zeros((size, size), dtype=np.bool_)
    if side == "right":
        mask[:, -strip:] = True
        return np.pad(image[:, -(size - strip) :], ((0, 0), (0, strip), (0, 0)), mode="reflect"), mask
    mask[:, :strip] = True
    return np.pad(image[:, : size - strip], ((0, 0), (strip, 0), (0, 0)), mode="reflect"), mask


def _check(image: Pixels, size: int, strip: int, prompts: Mapping[Side, str]) -> None:
    if unknown := sorted(set(prompts) - {"left", "right"}):
        raise ConfigError(f"an image grows to the left or right, not to the {', '.join(unknown)}")
    if not 1 <= strip <= (size - 1) // 2:
        raise ConfigError(f"a strip of {strip} px cannot be filled by reflection; give 1 to {(size - 1) // 2}")
    if image.shape[0] != size or image.shape[1] < size - strip:
        raise ConfigError(
            f"the image is {image.shape[1]} x {image.shape[0]} but the editor's window is {size} high"
            f" and needs {size - strip} columns; resize it"
        )
