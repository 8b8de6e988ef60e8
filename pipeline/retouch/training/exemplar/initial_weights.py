"""The networks that a training starts from: Paint by Example's, or Stable Diffusion's and CLIP's. Knows no image.

``load_start`` takes every form of ``models.latent``, or a prior, told apart by its role ``vision``:

* ``vision``: CLIP's image tower, a file of transformers' names (of a whole CLIP, what begins with
  ``vision_model``), with ``CLIPVisionConfig``'s keywords in a ``.json`` beside it unless it is ViT-L/14;
* with it ``checkpoint`` (or ``unet`` alone), Stable Diffusion's ``.ckpt`` of 4 or 9 channels, or ``model_index``, its
  diffusers folder. A ``.json`` beside the ``.ckpt`` holds ``LatentConfig``'s fields where it is not the published one.
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
from retouch.models.paint_by_example import LatentConfig, LatentNetworks, build_latent, load_latent, weights_file
from retouch.training.exemplar.widen import CONV_IN, widened, widened_config

VISION: Final = "vision"  # the role
_TOWER: Final = "vision_model."  # transformers' prefix in a whole CLIP


@dataclasses.dataclass(frozen=True)
class _Prior:
    """What a prior brings."""

    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    config: LatentConfig
    path: str  # for errors


def load_start(files: Mapping[str, str], prior: str, seed: int) -> LatentNetworks:
    """Networks in float32 on the CPU, autoencoder and image tower frozen, the rest free.

    What no weights are given for (of a prior: mapper, its norm and projection, unconditional vector), or wanted
    (``prior`` none: the UNet too), is drawn from the seed: the same in every worker.

    Raises:
        WeightsError: weights that are not whole, or of another architecture.
    """
    networks = _from_prior(files, seed) if VISION in files else load_latent(files)
    if prior == "none":
        networks = _anew(networks, seed)
    trained(networks)
    return networks


def trained(networks: LatentNetworks) -> None:
    """Let gradients reach what is trained, and nothing else."""
    networks.vae.requires_grad_(requires_grad=False)
    networks.unet.requires_grad_(requires_grad=True)
    networks.encoder.requires_grad_(requires_grad=True)
    networks.encoder.model.requires_grad_(requires_grad=False)


def _anew(networks: LatentNetworks, seed: int) -> LatentNetworks:
    """The same autoencoder and image tower, all else from random numbers."""
    fresh = _drawn(networks.config, seed)
    fresh.encoder.model.load_state_dict(networks.encoder.model.state_dict())
    return dataclasses.replace(fresh, vae=networks.vae)


def _from_prior(files: Mapping[str, str], seed: int) -> LatentNetworks:
    found = _folder(Path(files["model_index"])) if "model_index" in files else _checkpoint(files)
    tower = Path(files[VISION])
    card = tower.with_suffix(".json")
    config = found.config
    if card.is_file():
        config = dataclasses.replace(config, vision=_json(card))
    networks = _drawn(config, seed)
    state = {name: value for name, value in read_state_dict(str(tower)).items() if not name.endswith(POSITION_IDS)}
    if any(_TOWER in name for name in state):
        state = {name.partition(_TOWER)[2]: value for name, value in state.items() if _TOWER in name}
    load_strictly(networks.encoder.model, state, str(tower), "CLIP's image tower")
    load_strictly(networks.unet, widened(found.unet), found.path, "the UNet to start from")
    load_strictly(networks.vae, found.vae, found.path, "the autoencoder to start from")
    return networks


def _drawn(config: LatentConfig, seed: int) -> LatentNetworks:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        networks = build_latent(dataclasses.replace(config, unet=widened_config(config.unet)))
    module: nn.Module
    for module in networks.parts().values():
        module.float()
    return networks


def _checkpoint(files: Mapping[str, str]) -> _Prior:
    path = files.get("checkpoint") or files.get("unet")
    if path is None:
        raise WeightsError(f"beside {VISION} the job names neither checkpoint nor a diffusers folder to start from")
    with lightning_globals():
        state = read_state_dict(path)
    unet = convert_unet({name.removeprefix(UNET): value for name, value in state.items() if name.startswith(UNET)})
    vae = convert_vae({name.removeprefix(VAE): value for name, value in state.items() if name.startswith(VAE)})
    if CONV_IN not in unet or not vae:
        raise WeightsError(f"{path} is no latent-diffusion checkpoint: it has no {UNET}* or no {VAE}*")
    card = Path(path).with_suffix(".json")
    known = {field.name for field in dataclasses.fields(LatentConfig)}
    given = {name: value for name, value in _json(card).items() if name in known} if card.is_file() else {}
    return _Prior(unet, vae, LatentConfig(**given), path)


def _folder(index: Path) -> _Prior:
    folder = index.parent
    unet, vae = (_json(folder / part / "config.json") for part in ("unet", "vae"))
    schedule = _json(folder / "scheduler" / "scheduler_config.json").get("beta_schedule", LatentConfig.schedule)
    config = LatentConfig(unet=unet, vae=vae, schedule=schedule, context_dim=unet.get("cross_attention_dim", 768))
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
