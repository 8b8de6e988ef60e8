"""Load a denoising network of any known architecture from a checkpoint file.

The architecture is recognised by the tensors' names and shapes, not by the file's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from retouch.errors import WeightsError
from retouch.models.adm import ADM256, ADM512, ADM_SMALL, ADMConfig, build_adm, convert_adm, unconvert_adm
from retouch.models.checkpoint import load_strictly, read_state_dict
from retouch.models.ddpm import DDPM256, DDPMConfig, build_ddpm, convert_ddpm, unconvert_ddpm

KNOWN_ADM = {
    "the guided-diffusion 256 px UNet": ADM256,
    "the guided-diffusion 512 px class-conditional UNet": ADM512,
    "the 256 px UNet of AFHQ and FFHQ": ADM_SMALL,
}


@dataclass(frozen=True)
class Network:
    """A denoising network with the facts that a sampler needs; frozen weights, eval mode.

    ``module(x, t)`` takes x_t [B,3,S,S] float32 and t [B] on the original 0..999 scale and returns float32: eps
    [B,3,S,S], with v appended [B,6,S,S] where ``learn_sigma``. ``module(x, t, y)`` takes class labels [B] where
    ``num_classes`` is not 0.
    """

    module: nn.Module
    image_size: int  # S
    learn_sigma: bool
    schedule: Literal["linear", "cosine"] = "linear"  # of the 1,000 betas that it was trained on
    num_classes: int = 0
    # How its file is written: the module's state dict under its published names, and the content of the .json sidecar
    # if that describes the architecture.
    published: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    card: Mapping[str, Any] = field(default_factory=dict)


def load_unet(path: str, device: str = "cpu") -> Network:
    """Read a published UNet, or the package's own pixel UNet if a ``.json`` sidecar describes one.

    Raises:
        WeightsError: the file is missing, broken, or of no known architecture; every name and shape must fit.
    """
    if _is_described(path):
        return _on(device, _pixel(path))
    state = read_state_dict(path)
    if "time_embed.0.weight" in state:
        return _on(device, _adm(path, state))
    if "temb.dense.0.weight" in state:
        return _on(device, _ddpm(path, state))
    first = min(state)
    raise WeightsError(f"{path} is no known UNet ({len(state)} tensors, first: {first}); known: {_known()}")


def adm_network(state: Mapping[str, Tensor], config: ADMConfig, path: str, what: str = "this UNet") -> Network:
    """Return a guided-diffusion UNet of a given architecture from its published state dict.

    Raises:
        WeightsError: a name or shape differs; its text names ``path`` and ``what``.
    """
    with torch.device("meta"):
        module = build_adm(config)
    load_strictly(module, convert_adm(state, config), path, what)
    return Network(
        module,
        config.image_size,
        config.learn_sigma,
        num_classes=config.num_classes,
        published=lambda state: unconvert_adm(state, config),
    )


def ddpm_network(state: Mapping[str, Tensor], config: DDPMConfig, path: str, what: str = "this UNet") -> Network:
    """Return a DDPM UNet of a given architecture from its published state dict.

    Raises:
        WeightsError: a name or shape differs; its text names ``path`` and ``what``.
    """
    with torch.device("meta"):
        module = build_ddpm(config)
    load_strictly(module, convert_ddpm(state, config), path, what)
    return Network(module, config.image_size, learn_sigma=False, published=lambda state: unconvert_ddpm(state, config))


def _adm(path: str, state: Mapping[str, Tensor]) -> Network:
    width, classes = state["time_embed.0.weight"].shape[-1], len(state.get("label_emb.weight", ()))
    for what, config in KNOWN_ADM.items():
        if (config.num_channels, config.num_classes) == (width, classes):
            return adm_network(state, config, path, what)
    raise WeightsError(
        f"{path} is a guided-diffusion UNet of {width} channels and {classes} classes, which is not known;"
        f" known: {_known()}"
    )


def _ddpm(path: str, state: Mapping[str, Tensor]) -> Network:
    return ddpm_network(state, DDPM256, path, "the 256 px DDPM UNet of CelebA-HQ and LSUN")


def _pixel(path: str) -> Network:
    from retouch.models.pixel_unet import load_pixel_unet

    module, config = load_pixel_unet(Path(path))
    return Network(module, config["image_size"], learn_sigma=False, schedule=config["schedule"], card=config)


def _is_described(path: str) -> bool:
    """Return whether a file's .json sidecar describes a pixel UNet; others record a training."""
    card = Path(path).with_suffix(".json")
    if not (Path(path).is_file() and card.is_file()):
        return False
    try:
        content = json.loads(card.read_text())
    except ValueError as error:
        raise WeightsError(f"{card} is not JSON: {error}") from None
    return isinstance(content, dict) and "unet" in content


def _on(device: str, network: Network) -> Network:
    network.module.to(device).eval().requires_grad_(requires_grad=False)
    return network


def _known() -> str:
    return "; ".join((*KNOWN_ADM, "the 256 px DDPM UNet of CelebA-HQ and LSUN"))
