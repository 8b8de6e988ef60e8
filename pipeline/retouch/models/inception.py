"""InceptionV3's pooled features from its two published files.

Two networks of one architecture (Szegedy et al. 2016), both under torchvision's names:

torchvision    ``inception_v3_google-0cc3c7bd.pth``, 1000 classes with the auxiliary head.
FID            ``pt_inception-2015-12-05-6726825d.pth``, 1008 classes without it: the network of Heusel et al. 2017 and
               of every published FID. Its average pools leave the padding out of the mean, and the last block takes the
               maximum where torchvision averages.

Nothing is ever downloaded: the state dict comes from a local file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.inception import Inception3

from retouch.models.checkpoint import load_strictly, read_state_dict

IMAGE_SIZE: Final = 299
FID_CLASSES: Final = 1008  # of the 2015 TensorFlow graph; torchvision's has 1000
Kind = Literal["torchvision", "FID"]

# Blocks whose pool differs in the FID network.
_AVERAGED: Final = (*(f"Mixed_5{letter}" for letter in "bcd"), *(f"Mixed_6{letter}" for letter in "bcde"), "Mixed_7b")
_MAXIMUM: Final = "Mixed_7c"


@dataclass(frozen=True)
class Inception:
    """A frozen InceptionV3 in eval mode, float32, without its classifier."""

    model: nn.Module
    kind: Kind

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Return the pooled features [B,2048] of images [B,3,H,W] in [0,1].

        Images of any size are squashed to 299 x 299, bicubic and antialiased as in clean-fid (Parmar et al. 2022).
        """
        x = F.interpolate(x, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False, antialias=True)
        return cast(Tensor, self.model(x.clamp(0, 1) * 2 - 1))


def load_inception(path: str, device: str = "cpu") -> Inception:
    """Read either file; they differ in the number of classes.

    Raises:
        WeightsError: missing, broken, unsafe, or of another architecture.
    """
    state = read_state_dict(path)
    is_fid = len(state["fc.bias"]) == FID_CLASSES if "fc.bias" in state else False
    classes = FID_CLASSES if is_fid else 1000
    with torch.device("meta"):
        model = Inception3(num_classes=classes, aux_logits=not is_fid, transform_input=False, init_weights=False)
    # Counters of training steps, which older files lack.
    for name in model.state_dict():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.int64))
    kind: Kind = "FID" if is_fid else "torchvision"
    load_strictly(model, state, path, f"{kind}'s InceptionV3")
    model.fc, model.dropout, model.AuxLogits = nn.Identity(), nn.Identity(), None
    if is_fid:
        _pool_as_tensorflow(model)
    model.to(device).eval().requires_grad_(requires_grad=False)
    return Inception(model, kind)


def _pool_as_tensorflow(model: Any) -> None:
    """Give the blocks the pools that the FID network was trained with.

    A block's last branch pools and convolves; it is computed again from the block's input, its weights the same.
    """

    def average(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)

    def maximum(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)

    def repool(block: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        pool = maximum if block is getattr(model, _MAXIMUM) else average
        branch: Tensor = block.branch_pool(pool(inputs[0]))
        return torch.cat([output[:, : -branch.shape[1]], branch], dim=1)

    for name in (*_AVERAGED, _MAXIMUM):
        getattr(model, name).register_forward_hook(repool)
