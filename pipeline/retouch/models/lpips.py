"""Perceptual distances of two batches of images: LPIPS itself, and an uncalibrated stand-in on CLIP's features.

Nothing is downloaded: LPIPS's trunk comes from a local file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from retouch.errors import WeightsError
from retouch.models.checkpoint import load_strictly, read_state_dict
from retouch.models.clip import Clip

# (a, b), each [B,3,H,W] in [-1,1], to [B] float32; 0 for equal images, differentiable in both.
Distance = Callable[[Tensor, Tensor], Tensor]

Net = Literal["vgg", "alex"]

EPS = 1e-10  # LPIPS's own


def load_lpips(path: str, net: Net = "vgg", device: str = "cpu") -> Distance:
    """LPIPS v0.1 (Zhang et al. 2018) with the calibrated heads that the library ships.

    Args:
        path: torchvision's state dict of the trunk (``vgg16-397923af.pth``, ``alexnet-owt-7be5be79.pth``, or the same
            as safetensors); its classifier is not needed and not read.
        net: which trunk that is. Blended Diffusion guides with ``vgg``.

    Raises:
        WeightsError: the file is missing, broken, or holds another trunk.
    """
    import lpips

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision's, of the spelling that the library uses
        # Any other choice of these flags has the library download a trunk that is then thrown away.
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    trunk = read_state_dict(path)
    heads = read_state_dict(str(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"))
    state: dict[str, Tensor] = {f"scaling_layer.{k}": v for k, v in lpips.lpips.ScalingLayer().state_dict().items()}
    for name in model.state_dict():
        part, _, rest = name.partition(".")
        if part == "net":  # net.slice2.5.weight is features.5.weight
            theirs = "features." + rest.split(".", 1)[1]
            if theirs not in trunk:
                raise WeightsError(f"{path} is no {net} trunk for LPIPS: {theirs} is missing; take torchvision's")
            state[name] = trunk[theirs]
        elif part.startswith("lin"):  # every head is listed twice: lin0.…, lins.0.…
            state[name] = heads[name.replace("lins.", "lin", 1)]
    load_strictly(model, state, path, f"torchvision's {net} trunk for LPIPS")
    model.to(device).eval().requires_grad_(requires_grad=False)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return cast(Tensor, model(a, b)).flatten()

    return distance


def clip_features_distance(clip: Clip) -> Distance:
    """LPIPS's form on the stages of a CLIP image tower, without calibrated heads: not comparable with LPIPS's numbers.

    At each stage the channels of every position are brought to unit length, squared differences are summed over
    channels and averaged over positions; the stages are averaged. Range 0..4. Images of another size than CLIP's are
    resized to it.
    """

    def stages(x: Tensor) -> list[Tensor]:
        size = (clip.image_size, clip.image_size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
        visual = cast(Any, clip.model).visual
        found = visual.forward_intermediates(clip.normalise((x + 1) / 2), intermediates_only=True)
        return cast(list[Tensor], found["image_intermediates"])

    def distance(a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(stages(a), stages(b), strict=True)
        return torch.stack([(_unit(p) - _unit(q)).square().sum(1).mean((1, 2)) for p, q in pairs]).mean(0)

    return distance


def _unit(features: Tensor) -> Tensor:
    """Channels [B,C,H,W] at unit length; zero, with a gradient of zero, where a position has no features."""
    return F.normalize(features, dim=1, eps=EPS)
