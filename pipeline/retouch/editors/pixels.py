"""The one border between uint8 outside an editor and float [-1, 1] inside. Knows no file and no network."""

from __future__ import annotations

import torch
from torch import Tensor

from retouch.errors import EditError
from retouch.schema import Mask, Pixels


def from_uint8(image: Pixels, device: str) -> Tensor:
    """[B,H,W,3] uint8 -> [B,3,H,W] float32 in [-1, 1]."""
    return torch.from_numpy(image).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(x: Tensor) -> Pixels:
    """[B,3,H,W] in [-1, 1] -> [B,H,W,3] uint8: nearest level, ties to even."""
    levels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = levels.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def refuse_faults(image: Tensor, source: Tensor, hint: str) -> None:
    """Refuse what only a fault gives, while it can be told from an image: as uint8, NaN is black like any other black.

    One colour for every pixel, to the last bit and before anything is clamped, is such a fault: no network that works
    draws even a clear sky like that. From a source of one colour it may come.

    Args:
        image: [B,3,S,S] as the network left it, nothing pasted.
        source: [B,3,S,S].
        hint: what would do where an image is not finite.

    Raises:
        EditError: names the entries.
    """
    finite = image.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise EditError(f"the edit is not finite ({_entries(~finite)}); {hint}")
    flat = _is_flat(image) & ~_is_flat(source)
    if flat.any():
        raise EditError(f"the network gave one colour all over ({_entries(flat)}); look at its weights and precision")


def _is_flat(x: Tensor) -> Tensor:
    """Which images [B,3,S,S] have one colour, [B] bool."""
    return (x == x[..., :1, :1]).flatten(1).all(dim=1)


def _entries(chosen: Tensor) -> str:
    """Which of [B] bool, and of how many, in words."""
    return f"entry {', '.join(str(int(place)) for place in chosen.nonzero())} of {len(chosen)}"


def mask_from_bool(mask: Mask, device: str) -> Tensor:
    """[B,H,W] bool -> [B,1,H,W] float32 in {0, 1}."""
    return torch.from_numpy(mask).to(device)[:, None].float()
