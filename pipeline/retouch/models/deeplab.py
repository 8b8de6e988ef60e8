"""DeepLabv3 on ResNet-50 as torchvision publishes it: an image to one class per pixel.

Source: Chen et al. 2017 (DeepLabv3); weights ``deeplabv3_resnet50_coco-cd0a2569.pth``, 21 classes with Pascal VOC's
names. Nothing is ever downloaded: the state dict comes from a local file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3_resnet50

from retouch.models.checkpoint import load_strictly, read_state_dict

IMAGE_SIZE = 520  # px of the shorter side in the published evaluation
CLASSES = 21

# Of ImageNet, with which the trunk was trained.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Segmenter:
    """A frozen DeepLabv3 in eval mode, float32."""

    model: nn.Module
    image_size: int  # px to which the shorter side is brought

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def labels(self, x: Tensor) -> Tensor:
        """Return the likeliest class of every pixel: [B,3,H,W] in [0,1] -> [B,h,w] int64 at the network's size."""
        shorter = min(x.shape[-2:])
        size = tuple(self.image_size * side // shorter for side in x.shape[-2:])
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        x = (x - x.new_tensor(MEAN).view(3, 1, 1)) / x.new_tensor(STD).view(3, 1, 1)
        return cast(Tensor, cast(Any, self.model)(x)["out"].argmax(dim=1))


def load_segmenter(path: str, device: str = "cpu", image_size: int = IMAGE_SIZE) -> Segmenter:
    """Read torchvision's state dict of ``deeplabv3_resnet50``, of any number of classes, with its auxiliary head.

    Raises:
        WeightsError: missing, broken, unsafe, or of another architecture.
    """
    state = read_state_dict(path)
    classes = len(state["classifier.4.bias"]) if "classifier.4.bias" in state else CLASSES
    with torch.device("meta"):
        model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=True)
    load_strictly(model, state, path, "torchvision's deeplabv3_resnet50 with its auxiliary head")
    model.to(device).eval().requires_grad_(requires_grad=False)
    return Segmenter(model, image_size)
