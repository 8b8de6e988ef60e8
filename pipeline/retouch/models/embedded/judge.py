"""A classifier of the shape and colour in a mask, trained on drawn scenes only: meaningless on photographs.

No editor uses it, so that it can judge their edits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from retouch.errors import WeightsError
from retouch.models.embedded.data import to_tensor
from retouch.models.embedded.scenes import COLOURS, NONE, SHAPES, bounding_box
from retouch.schema import Mask, Pixels

CROP: Final = 32  # pixels; a mask's bounding box is resized to it


class JudgeNet(nn.Module):
    """A convolutional classifier with a head for shapes and one for colours."""

    def __init__(self, shapes: Sequence[str], colours: Sequence[str], width: int = 32) -> None:
        super().__init__()
        self.shapes, self.colours = (*shapes, NONE), (*colours, NONE)
        widths = (3, width, 2 * width, 2 * width, 4 * width, 4 * width)
        strides = (1, 2, 1, 2, 2)
        layers: list[nn.Module] = []
        for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1))
        self.shape_head = nn.Linear(16 * width, len(self.shapes))
        self.colour_head = nn.Linear(16 * width, len(self.colours))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, 5] and [B, 7] of crops [B, 3, 32, 32] in [-1, 1]; the last class is none."""
        features = self.trunk(crops)
        return self.shape_head(features), self.colour_head(features)

    @torch.no_grad()
    def judge(self, images: Pixels, masks: Mask) -> list[tuple[str, str]]:
        """Return shape and colour in each mask [B, H, W] of images [B, H, W, 3]; (none, none) for an empty mask."""
        filled = [index for index, mask in enumerate(masks) if mask.any()]
        labels = [(NONE, NONE)] * len(images)
        if not filled:
            return labels
        device = self.shape_head.weight.device
        crops = torch.cat([crop(images[index], masks[index]) for index in filled]).to(device)
        shapes, colours = (logits.argmax(dim=1).tolist() for logits in self(crops))
        for index, shape, colour in zip(filled, shapes, colours, strict=True):
            labels[index] = self.shapes[shape], self.colours[colour]
        return labels


def load_judge(folder: Path) -> JudgeNet:
    """Read the judge; float32, eval mode.

    Raises:
        WeightsError: a file is missing, broken or of another architecture.
    """
    try:
        config = json.loads((folder / "judge.json").read_text())
        net = JudgeNet(config["shapes"], config["colours"], config["width"])
        weights = load_file(folder / "judge.safetensors")
        net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise WeightsError(f"{folder}: not a shapes judge: {str(error).splitlines()[0]}") from error
    return net.eval().requires_grad_(requires_grad=False)


def judge_config(width: int = 32) -> dict[str, Any]:
    """Return the content of ``judge.json``."""
    return {"shapes": list(SHAPES), "colours": list(COLOURS), "width": width, "crop": CROP}


def crop(image: Pixels, mask: Mask) -> Tensor:
    """Return a mask's bounding box, resized: [1, 3, 32, 32] in [-1, 1]."""
    x0, y0, x1, y1 = bounding_box(mask)
    box = to_tensor(image[None, y0:y1, x0:x1])
    return F.interpolate(box, (CROP, CROP), mode="bilinear", antialias=True, align_corners=False)
