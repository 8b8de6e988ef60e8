"""ArcFace on IR-SE50: an aligned face to a unit vector of its identity, from the published flat state dict.

Faces must be aligned as FFHQ's are (eyes level, face in the middle): the crop is fixed, and for any other image the
vector means nothing.

Sources: Deng et al. 2019 (ArcFace); IR-SE50 as InsightFace publishes it (``model_ir_se50.pth``); crop and pooling as in
DiffusionCLIP's identity loss. Module names are those of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retouch.models.checkpoint import load_strictly, read_state_dict

BLOCKS = (3, 4, 14, 3)  # bottlenecks per stage: two convolutions each, so 50 layers with the first and the last
CHANNELS = (64, 128, 256, 512)
FACE = 112  # side of the training images in pixels
EMBEDDING = 512
REDUCTION = 16  # of the channels within a squeeze

# Rows and columns of the face in an aligned image, as shares of its sides: 35:223 and 32:220 of 256 px.
ROWS = (35 / 256, 223 / 256)
COLUMNS = (32 / 256, 220 / 256)


class SqueezeExcite(nn.Module):
    """Channel weights from the whole image (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // REDUCTION, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // REDUCTION, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,C,H,W]."""
        squeezed = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(squeezed))))


class Bottleneck(nn.Module):
    """An improved residual block with squeeze and excitation."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)  # only drops pixels: a stride without weights
        if channels != out_channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, out_channels, 3, 1, 1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            SqueezeExcite(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] -> [B,out,H/stride,W/stride]."""
        return cast(Tensor, self.res_layer(x) + self.shortcut_layer(x))


class IrSe50(nn.Module):
    """The network: [B,3,112,112] in [-1,1] to [B,512], not yet of unit length."""

    def __init__(self) -> None:
        super().__init__()
        width = CHANNELS[0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        body = []
        for out_channels, blocks in zip(CHANNELS, BLOCKS, strict=True):
            for block in range(blocks):
                body.append(Bottleneck(width, out_channels, stride=2 if block == 0 else 1))
                width = out_channels
        self.body = nn.Sequential(*body)
        side = FACE // 2 ** len(BLOCKS)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Dropout(0.5),  # idle outside training; the file's numbering counts it
            nn.Flatten(),
            nn.Linear(width * side * side, EMBEDDING),
            nn.BatchNorm1d(EMBEDDING),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings of faces that fill their images."""
        return cast(Tensor, self.output_layer(self.body(self.input_layer(x))))


@dataclass(frozen=True)
class ArcFace:
    """A frozen ArcFace in eval mode, float32."""

    model: nn.Module

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def embed(self, x: Tensor) -> Tensor:
        """Return unit vectors [B,512] of aligned face images, differentiable; the dot product of two is their likeness.

        Args:
            x: [B,3,H,W] in [-1,1], RGB. The face is rows 35:223 and columns 32:220 of 256 px, the same shares of any
                other size (to the nearest pixel), averaged to 112 px.
        """
        return F.normalize(self.model(F.adaptive_avg_pool2d(face(x), FACE)), dim=-1)


def face(x: Tensor) -> Tensor:
    """Return the part of aligned images [B,C,H,W] that shows the face."""
    height, width = x.shape[-2:]
    top, bottom = (round(share * height) for share in ROWS)
    left, right = (round(share * width) for share in COLUMNS)
    return x[..., top:bottom, left:right]


def load_arcface(path: str, device: str = "cpu") -> ArcFace:
    """Read IR-SE50's published file, ``model_ir_se50.pth``, or the same tensors as safetensors.

    Raises:
        WeightsError: missing, broken, unsafe, or of another architecture.
    """
    with torch.device("meta"):
        model = IrSe50()
    load_strictly(model, read_state_dict(path), path, "InsightFace's IR-SE50 (model_ir_se50.pth)")
    model.to(device).eval().requires_grad_(requires_grad=False)
    return ArcFace(model)


def identity_loss(arcface: ArcFace, edited: Tensor, source: Tensor) -> Tensor:
    """Return 1 - likeness of each edited face to its source, [B]; 0 for the same image, about 1 for strangers.

    Args:
        edited: [B,3,H,W] in [-1,1], aligned; the gradient goes here.
        source: the same before the edit; no gradient goes here.
    """
    with torch.no_grad():
        identity = arcface.embed(source)
    likeness: Tensor = (arcface.embed(edited) * identity).sum(dim=-1)
    return 1 - likeness
