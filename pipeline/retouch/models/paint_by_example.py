"""Paint by Example's three networks from any of their published forms.

Forms (``load_networks``), by role:

* ``checkpoint`` (or ``unet`` alone): the Lightning ``model.ckpt``; an optional ``.json`` sidecar describes an
  architecture other than the published one;
* ``model_index``: the diffusers folder, read component by component, for it names a library that diffusers dropped;
* ``exemplar_vae``, ``exemplar_unet``, ``exemplar_encoder``: this package's own, each with a ``.json``
  sidecar: keywords of ``AutoencoderKL``; those of ``UNet2DConditionModel`` and ``schedule``; ``vision`` and the rest of
  ``PaintByExampleConfig``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from retouch.errors import WeightsError
from retouch.models.checkpoint import load_strictly, read_state_dict, reason
from retouch.models.exemplar_encoder import (
    ExemplarEncoder,
    build_encoder,
    convert_folder_encoder,
    convert_ldm_encoder,
    materialise,
)
from retouch.models.ldm_keys import UNET, VAE, convert_old_vae, convert_unet, convert_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)

OWN: Final = ("exemplar_vae", "exemplar_unet", "exemplar_encoder")  # roles of our own files

# Tensors of model.ckpt that are no weights. The training averages (model_ema) are not used either.
BUFFERS: Final = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    }
)
AVERAGES: Final = "model_ema."


@dataclass(frozen=True)
class PaintByExampleConfig:
    """Architecture of the three networks; the defaults are the published ones."""

    unet: Mapping[str, Any] = field(  # keywords of UNet2DConditionModel; sample_size is in latent pixels
        default_factory=lambda: {
            "sample_size": 64,
            "in_channels": 9,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,  # diffusers' name for the number of heads
        }
    )
    vae: Mapping[str, Any] = field(  # keywords of AutoencoderKL, its scaling_factor included
        default_factory=lambda: {
            "block_out_channels": (128, 256, 512, 512),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "layers_per_block": 2,
            "sample_size": 512,
            "scaling_factor": 0.18215,
        }
    )
    vision: Mapping[str, Any] = field(  # keywords of transformers' CLIPVisionConfig
        default_factory=lambda: {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        }
    )
    context_dim: int = 768
    mapper_layers: int | None = None  # None: a fifth of the tower's, as published
    schedule: str = "scaled_linear"  # of retouch.diffusion.schedule
    mean: tuple[float, ...] = CLIP_MEAN  # of the exemplar's channels in [0, 1]
    std: tuple[float, ...] = CLIP_STD


@dataclass(frozen=True)
class PaintByExampleNetworks:
    """The autoencoder, the UNet and the exemplar encoder, with their configuration."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel  # takes [x_t, masked image's latent, mask] and context [B,N,context_dim], gives eps
    encoder: ExemplarEncoder
    config: PaintByExampleConfig

    @property
    def schedule(self) -> str:
        """Name of the UNet's training noise schedule."""
        return self.config.schedule

    @property
    def scaling_factor(self) -> float:
        """Factor that gives the autoencoder's latents unit deviation."""
        return float(cast(Any, self.vae.config).scaling_factor)

    @property
    def factor(self) -> int:
        """Side of one latent pixel, in pixels."""
        return int(2 ** (len(cast(Any, self.vae.config).block_out_channels) - 1))

    @property
    def image_size(self) -> int:
        """Side of the UNet's training images, in pixels."""
        return int(cast(Any, self.unet.config).sample_size) * self.factor

    @property
    def reference_size(self) -> int:
        """Side of the exemplar that the encoder takes, in pixels."""
        return int(cast(Any, self.encoder.vision_config).image_size)

    @property
    def mean(self) -> tuple[float, ...]:
        """Of the exemplar's channels in [0, 1]."""
        return self.config.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of the exemplar's channels in [0, 1]."""
        return self.config.std

    def parts(self) -> dict[str, nn.Module]:
        """Return the networks by the role of this package's own files."""
        return {"exemplar_vae": self.vae, "exemplar_unet": self.unet, "exemplar_encoder": self.encoder}


def build_networks(config: PaintByExampleConfig) -> PaintByExampleNetworks:
    """Build networks with random weights, in eval mode, on the current default device (``meta`` allocates none).

    Raises:
        WeightsError: a configuration that describes no such network.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    try:
        vae = AutoencoderKL.from_config(dict(config.vae))
        unet = UNet2DConditionModel.from_config(dict(config.unet))
        encoder = build_encoder(config.vision, config.context_dim, config.mapper_layers)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"the configuration describes no Paint by Example: {reason(error)}") from error
    for network in (vae, unet, encoder):
        network.eval()
    return PaintByExampleNetworks(vae, unet, encoder, config)


def load_networks(weights: Mapping[str, str], device: str = "cpu") -> PaintByExampleNetworks:
    """Read the networks: frozen, in eval mode, float32.

    Args:
        weights: role to local file, in one of the module's three forms.

    Raises:
        WeightsError: no form is whole; a file is missing, broken, unsafe or of another architecture.
    """
    if any(role in weights for role in OWN):
        config, states, path = _own(weights)
    elif "model_index" in weights:
        config, states, path = _folder(Path(weights["model_index"]))
    elif found := weights.get("checkpoint") or weights.get("unet"):
        config, states, path = _checkpoint(found)
    else:
        raise WeightsError(
            f"paint_by_example needs weights {', '.join(OWN)}, or checkpoint (model.ckpt), or a diffusers folder; "
            f"the job names {', '.join(weights) or 'none'}"
        )
    with torch.device("meta"):
        networks = build_networks(config)
    for role, module in networks.parts().items():
        load_strictly(module, states.pop(role), path[role], f"Paint by Example's {role.removeprefix('exemplar_')}")
        module.requires_grad_(requires_grad=False)
    materialise(networks.encoder)
    for module in networks.parts().values():
        module.to(device)
    return networks


def save_networks(networks: PaintByExampleNetworks, folder: Path) -> dict[str, str]:
    """Write the networks in this package's own form, float32. Return role to file name, as a family names them."""
    folder.mkdir(parents=True, exist_ok=True)
    card = dataclasses.asdict(networks.config)
    vae, unet, schedule = card.pop("vae"), card.pop("unet"), card.pop("schedule")
    cards = {"exemplar_vae": vae, "exemplar_unet": {**unet, "schedule": schedule}, "exemplar_encoder": card}
    for role, module in networks.parts().items():
        state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
        save_file(state, folder / f"{role}.safetensors")
        (folder / f"{role}.json").write_text(json.dumps(cards[role], indent=2) + "\n")
    return {role: f"{role}.safetensors" for role in OWN}


_States = dict[str, dict[str, Tensor]]  # by the role of our own files
_Read = tuple[PaintByExampleConfig, _States, dict[str, str]]  # and the file of each, for errors


def _own(weights: Mapping[str, str]) -> _Read:
    if missing := [role for role in OWN if role not in weights]:
        raise WeightsError(f"paint_by_example needs weights for {', '.join(missing)} too: name them in the job")
    vae, unet, encoder = (_json(Path(weights[role]).with_suffix(".json")) for role in OWN)
    schedule = unet.pop("schedule", PaintByExampleConfig.schedule)
    found = {**encoder, "vae": vae, "unet": unet, "schedule": schedule}
    states = {role: read_state_dict(weights[role]) for role in OWN}
    return _config(found), states, {role: weights[role] for role in OWN}


def _checkpoint(path: str) -> _Read:
    from retouch.models.lightning import lightning_globals

    with lightning_globals():
        state = read_state_dict(path)
    state = {name: value for name, value in state.items() if name not in BUFFERS and not name.startswith(AVERAGES)}
    if f"{UNET}input_blocks.0.0.weight" not in state:
        first = min(state, default="none")
        raise WeightsError(f"{path} is no Paint by Example checkpoint ({len(state)} tensors, first: {first})")
    unet = {name: state.pop(name) for name in list(state) if name.startswith(UNET)}
    vae = {name: state.pop(name) for name in list(state) if name.startswith(VAE)}
    states = {
        "exemplar_vae": convert_vae({name.removeprefix(VAE): value for name, value in vae.items()}),
        "exemplar_unet": convert_unet({name.removeprefix(UNET): value for name, value in unet.items()}),
        "exemplar_encoder": convert_ldm_encoder(state),  # all that is left, so that unknown tensors raise
    }
    card = Path(path).with_suffix(".json")
    config = _config(_json(card)) if card.is_file() else PaintByExampleConfig()
    return config, states, dict.fromkeys(OWN, path)


def _folder(index: Path) -> _Read:
    folder = index.parent
    named = _json(index)
    if missing := [part for part in ("vae", "unet", "image_encoder") if part not in named]:
        raise WeightsError(f"{index} names no {', '.join(missing)}: not a Paint by Example folder")
    files = {
        "exemplar_vae": weights_file(folder / "vae"),
        "exemplar_unet": weights_file(folder / "unet"),
        "exemplar_encoder": weights_file(folder / "image_encoder"),
    }
    states = {role: read_state_dict(path) for role, path in files.items()}
    states["exemplar_vae"] = convert_old_vae(states["exemplar_vae"])
    states["exemplar_encoder"] = convert_folder_encoder(states["exemplar_encoder"])
    found: dict[str, Any] = {
        "vae": _json(folder / "vae" / "config.json"),
        "unet": _json(folder / "unet" / "config.json"),
        "vision": _json(folder / "image_encoder" / "config.json"),
    }
    found["context_dim"] = states["exemplar_encoder"].get("proj_out.bias", torch.empty(0)).shape[0]
    found["schedule"] = _json(folder / "scheduler" / "scheduler_config.json").get("beta_schedule", "scaled_linear")
    preparation = folder / "feature_extractor" / "preprocessor_config.json"
    if preparation.is_file():
        card = _json(preparation)
        found |= {name: card[f"image_{name}"] for name in ("mean", "std") if f"image_{name}" in card}
    return _config(found), states, files


def weights_file(folder: Path) -> str:
    """Return the weights of one component of a diffusers folder, or their shard index: safetensors before pickles.

    Raises:
        WeightsError: it has none.
    """
    stems = ("diffusion_pytorch_model", "model", "pytorch_model")
    suffixes = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
    for path in (folder / f"{stem}{suffix}" for suffix in suffixes for stem in stems):
        if path.is_file():
            return str(path)
    raise WeightsError(f"{folder} has no weights; give it {stems[0]}.safetensors, or the published .bin")


def _config(found: Mapping[str, Any]) -> PaintByExampleConfig:
    known = {f.name for f in dataclasses.fields(PaintByExampleConfig)}
    kept: dict[str, Any] = {name: value for name, value in found.items() if name in known}
    kept |= {name: tuple(value) for name, value in kept.items() if isinstance(value, list)}  # JSON has no tuples
    return PaintByExampleConfig(**kept)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {reason(error)}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} describes nothing: expected an object")
    return found
