"""The one border between uint8 outside an editor and float [-1, 1] inside. Knows no file and no network."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.schema import Mask, Pixels


def from_uint8(image: Pixels, device: str) -> Tensor:
    """[B,H,W,3] uint8 -> [B,3,H,W] float32 in [-1, 1]."""
    return torch.from_numpy(image).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(x: Tensor) -> Pixels:
    """[B,3,H,W] in [-1, 1] -> [B,H,W,3] uint8: nearest level, ties to even."""
    levels = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels: Pixels = levels.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def mask_from_bool(mask: Mask, device: str) -> Tensor:
    """[B,H,W] bool -> [B,1,H,W] float32 in {0, 1}."""
    return torch.from_numpy(mask).to(device)[:, None].float()
