"""The networks that a training starts from: Paint by Example's, or Stable Diffusion's and CLIP's.

``load_start`` takes every form that ``models.paint_by_example`` reads, or a prior, recognised by its role ``vision``:

* ``vision``: CLIP's image tower, a file with transformers' names (of a whole CLIP, those that begin with
  ``vision_model``), with ``CLIPVisionConfig``'s keywords in a sidecar ``.json`` unless it is ViT-L/14;
* with it ``checkpoint`` (or ``unet`` alone), Stable Diffusion's ``.ckpt`` of 4 or 9 channels, or ``model_index``, its
  diffusers folder. A sidecar ``.json`` of the ``.ckpt`` holds ``PaintByExampleConfig``'s fields if it is not the
  published one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from retouch.diffusion.noise import derive_seed
from retouch.errors import WeightsError
from retouch.models.checkpoint import load_strictly, read_state_dict, reason
from retouch.models.exemplar_encoder import POSITION_IDS
from retouch.models.ldm_keys import UNET, VAE, convert_old_vae, convert_unet, convert_vae
from retouch.models.lightning import lightning_globals
from retouch.models.paint_by_example import (
    PaintByExampleConfig,
    PaintByExampleNetworks,
    build_networks,
    load_networks,
    weights_file,
)

VISION: Final = "vision"  # the role
CONV_IN: Final = "conv_in.weight"
CHANNELS: Final = 9  # 4 of x_t, 4 of the masked image's latent, 1 of the mask
_TOWER: Final = "vision_model."  # transformers' prefix in a whole CLIP


@dataclasses.dataclass(frozen=True)
class _Prior:
    """The weights of a prior."""

    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    config: PaintByExampleConfig
    path: str  # for error messages


def load_start(files: Mapping[str, str], prior: str, seed: int) -> PaintByExampleNetworks:
    """Return the networks in float32 on the CPU, with autoencoder and image tower frozen and the rest trainable.

    Parts without weights (of a prior: mapper, its norm and projection, unconditional vector) are drawn from the seed,
    the same in every worker. ``prior`` none draws the UNet too.

    Raises:
        WeightsError: weights are incomplete, or of another architecture.
    """
    networks = _from_prior(files, seed) if VISION in files else load_networks(files)
    if prior == "none":
        networks = _reinitialised(networks, seed)
    freeze(networks)
    return networks


def freeze(networks: PaintByExampleNetworks) -> None:
    """Freeze autoencoder and image tower, and make the rest trainable."""
    networks.vae.requires_grad_(requires_grad=False)
    networks.unet.requires_grad_(requires_grad=True)
    networks.encoder.requires_grad_(requires_grad=True)
    networks.encoder.model.requires_grad_(requires_grad=False)


def _reinitialised(networks: PaintByExampleNetworks, seed: int) -> PaintByExampleNetworks:
    """Return networks with the same autoencoder and image tower and random weights elsewhere."""
    fresh = _drawn(networks.config, seed)
    fresh.encoder.model.load_state_dict(networks.encoder.model.state_dict())
    return dataclasses.replace(fresh, vae=networks.vae)


def _from_prior(files: Mapping[str, str], seed: int) -> PaintByExampleNetworks:
    found = _folder(Path(files["model_index"])) if "model_index" in files else _checkpoint(files)
    tower = Path(files[VISION])
    sidecar = tower.with_suffix(".json")
    config = found.config
    if sidecar.is_file():
        config = dataclasses.replace(config, vision=_json(sidecar))
    networks = _drawn(config, seed)
    state = {name: value for name, value in read_state_dict(str(tower)).items() if not name.endswith(POSITION_IDS)}
    if any(_TOWER in name for name in state):
        state = {name.partition(_TOWER)[2]: value for name, value in state.items() if _TOWER in name}
    load_strictly(networks.encoder.model, state, str(tower), "CLIP's image tower")
    load_strictly(networks.unet, widened(found.unet), found.path, "the UNet to start from")
    load_strictly(networks.vae, found.vae, found.path, "the autoencoder to start from")
    return networks


def _drawn(config: PaintByExampleConfig, seed: int) -> PaintByExampleNetworks:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        networks = build_networks(dataclasses.replace(config, unet=widened_config(config.unet)))
    module: nn.Module
    for module in networks.parts().values():
        module.float()
    return networks


def widened(state: Mapping[str, Tensor], channels: int = CHANNELS) -> dict[str, Tensor]:
    """Return a UNet's state dict (names of ``UNet2DConditionModel``) with zero weights for further input channels.

    So the first pass is that of the UNet to start from (Yang et al. 2022, section 3.3).

    Raises:
        WeightsError: the UNet takes more channels already, or has no first convolution.
    """
    if CONV_IN not in state:
        raise WeightsError(f"the weights to start from hold no {CONV_IN}: they are not a UNet's")
    weight = state[CONV_IN]
    missing = channels - weight.shape[1]
    if missing < 0:
        raise WeightsError(f"the UNet to start from takes {weight.shape[1]} channels; it must be {channels} at most")
    zeros = torch.zeros(weight.shape[0], missing, *weight.shape[2:], dtype=weight.dtype)
    return {**state, CONV_IN: torch.cat([weight, zeros], dim=1)}


def widened_config(config: Mapping[str, Any], channels: int = CHANNELS) -> dict[str, Any]:
    """Return the keywords of ``UNet2DConditionModel`` for the widened UNet."""
    return {**config, "in_channels": channels}


def _checkpoint(files: Mapping[str, str]) -> _Prior:
    path = files.get("checkpoint") or files.get("unet")
    if path is None:
        raise WeightsError(f"weights have {VISION} but neither checkpoint nor a diffusers folder to start from")
    with lightning_globals():
        state = read_state_dict(path)
    unet = convert_unet({name.removeprefix(UNET): value for name, value in state.items() if name.startswith(UNET)})
    vae = convert_vae({name.removeprefix(VAE): value for name, value in state.items() if name.startswith(VAE)})
    if CONV_IN not in unet or not vae:
        raise WeightsError(f"{path} is not a latent-diffusion checkpoint: it has no {UNET}* or no {VAE}*")
    sidecar = Path(path).with_suffix(".json")
    known = {field.name for field in dataclasses.fields(PaintByExampleConfig)}
    given = {name: value for name, value in _json(sidecar).items() if name in known} if sidecar.is_file() else {}
    return _Prior(unet, vae, PaintByExampleConfig(**given), path)


def _folder(index: Path) -> _Prior:
    folder = index.parent
    unet, vae = (_json(folder / part / "config.json") for part in ("unet", "vae"))
    schedule = _json(folder / "scheduler" / "scheduler_config.json").get("beta_schedule", PaintByExampleConfig.schedule)
    config = PaintByExampleConfig(
        unet=unet, vae=vae, schedule=schedule, context_dim=unet.get("cross_attention_dim", 768)
    )
    return _Prior(
        read_state_dict(weights_file(folder / "unet")),
        convert_old_vae(read_state_dict(weights_file(folder / "vae"))),
        config,
        str(index),
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {reason(error)}") from None
    return found
