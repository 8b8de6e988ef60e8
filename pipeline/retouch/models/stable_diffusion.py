"""Stable Diffusion and SDXL from a diffusers folder: networks, noise schedule, and what the UNet reads of prompts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from retouch.errors import WeightsError
from retouch.models.checkpoint import reason
from retouch.models.diffusers_networks import load_network
from retouch.models.weights.diffusers_folder import INDEX_FILE

CHANNELS: Final = 4  # of the latents, and of the input of a UNet that was trained on text to image
_CLASSES: Final = {  # component to its class; the second text encoder is SDXL's
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}


@dataclass(frozen=True)
class TextTower:
    """A text encoder with its tokenizer."""

    tokenizer: Any
    encoder: Any  # transformers' CLIPTextModel, with or without projection

    def token_count(self, prompt: str) -> int:
        """Return the number of tokens, start and end included."""
        return len(self.tokenizer(prompt, verbose=False).input_ids)

    @property
    def context_length(self) -> int:
        """Tokens that the encoder reads, start and end included; 77 in published ones."""
        return int(self.tokenizer.model_max_length)

    def encode(self, prompt: str) -> Any:
        """Return the encoder's outputs for one prompt, cut and padded to ``context_length``."""
        length = self.context_length
        read = self.tokenizer(prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        device = next(self.encoder.parameters()).device
        masked = getattr(self.encoder.config, "use_attention_mask", False)
        attention = read.attention_mask.to(device) if masked else None
        return self.encoder(read.input_ids.to(device), attention_mask=attention, output_hidden_states=True)


@dataclass(frozen=True)
class Text:
    """An encoded prompt."""

    context: Tensor  # [L,D], what the UNet attends to
    pooled: Tensor | None  # [P], SDXL only
    cut: int  # tokens of the prompt that were not read


@dataclass(frozen=True)
class StableDiffusion:
    """Frozen networks in eval mode, float32, with what decides how they are sampled."""

    unet: nn.Module  # (x [B,4,h,w], t [B], context [B,L,D], None, ...) -> prediction [B,4,h,w]
    vae: Any  # diffusers' AutoencoderKL
    towers: tuple[TextTower, ...]  # one; two of SDXL
    scheduler: Any  # diffusers' DDIMScheduler of the folder's configuration; only its configuration is read
    betas: npt.NDArray[np.float64]  # [1000], of the noise schedule that the UNet was trained on
    prediction: Literal["epsilon", "v_prediction"]
    image_size: int  # side of the UNet's training images, in pixels
    zero_empty: bool  # whether an empty negative prompt is zeros instead of an encoded text (SDXL)

    @property
    def is_xl(self) -> bool:
        """Whether the UNet reads pooled text and sizes, too."""
        return len(self.towers) == 2

    def timesteps(self, steps: int) -> list[int]:
        """Return DDIM's timesteps downwards, then the level where it ends: 0, or -1 for the clean image.

        Args:
            steps: 1 to the schedule's length.
        """
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler(**_known(DDIMScheduler, self.scheduler.config))  # set_timesteps changes it
        scheduler.set_timesteps(steps)
        end = -1 if scheduler.config.set_alpha_to_one else 0
        return [*(int(t) for t in scheduler.timesteps), end]

    @torch.no_grad()
    def text(self, prompt: str) -> Text:
        """Return one encoded prompt. Encoded alone, so that it depends on no other."""
        cut = max(0, *(tower.token_count(prompt) - tower.context_length for tower in self.towers))
        outputs = [tower.encode(prompt) for tower in self.towers]
        if not self.is_xl:
            return Text(outputs[0].last_hidden_state[0], None, cut)
        return Text(torch.cat([one.hidden_states[-2][0] for one in outputs], dim=-1), outputs[1].text_embeds[0], cut)

    def negative(self, prompt: str) -> Text:
        """Return what the unconditional pass reads."""
        text = self.text(prompt)
        if prompt or not self.zero_empty:
            return text
        pooled = None if text.pooled is None else torch.zeros_like(text.pooled)
        return Text(torch.zeros_like(text.context), pooled, text.cut)

    def encode(self, image: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the scaled latent of images.

        Args:
            image: [B,3,S,S] in [-1, 1].
            noise: [B,4,h,w] standard normal, to sample the posterior; None takes its mean.
        """
        posterior = self.vae.encode(image, return_dict=False)[0]
        latent = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return cast(Tensor, latent * self.vae.config.scaling_factor)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images [B,3,S,S], about [-1, 1], of scaled latents [B,4,h,w]."""
        return cast(Tensor, self.vae.decoder(self.before_decoder(latent)))

    def before_decoder(self, latent: Tensor) -> Tensor:
        """Return what ``vae.decoder`` takes, of scaled latents [B,4,h,w]."""
        convolution = self.vae.post_quant_conv
        latent = latent / self.vae.config.scaling_factor
        return latent if convolution is None else cast(Tensor, convolution(latent))

    @property
    def latent_size(self) -> int:
        """Side of the latents of ``image_size``."""
        return self.image_size // _factor(self.vae.config)


def load_stable_diffusion(index: str, device: str = "cpu") -> StableDiffusion:
    """Read a text-to-image folder of Stable Diffusion (1.x, 2.x) or SDXL.

    Args:
        index: the folder's ``model_index.json``.
        device: where the networks go.

    Raises:
        WeightsError: another kind of pipeline, an inpainting UNet, or a file that is missing or broken.
    """
    folder = Path(index).parent
    named = _json(folder / INDEX_FILE)
    _check_components(named, folder)
    second = _is_named(named, "text_encoder_2")
    config = _json(folder / "unet" / "config.json")
    size = _image_size(config, _json(folder / "vae" / "config.json"), folder)
    scheduler = _scheduler(folder)
    towers = ["text_encoder", "text_encoder_2"] if second else ["text_encoder"]
    return StableDiffusion(
        unet=_component(folder, named, "unet", device),
        vae=_component(folder, named, "vae", device),
        towers=tuple(_tower(folder, named, name, device) for name in towers),
        scheduler=scheduler,
        betas=np.asarray(scheduler.betas, np.float64),
        prediction=scheduler.config.prediction_type,
        image_size=size,
        zero_empty=second and bool(named.get("force_zeros_for_empty_prompt", True)),
    )


def _check_components(named: Mapping[str, Any], folder: Path) -> None:
    """Raise WeightsError, before anything large is read, if the folder is of another kind of pipeline."""
    kind = named.get("_class_name", "unknown pipeline")
    wanted = "Stable Diffusion or SDXL, trained on text to image, is expected"
    for name, classes in _CLASSES.items():
        found = named[name][1] if _is_named(named, name) else None
        if found not in classes and not (found is None and name == "text_encoder_2"):
            raise WeightsError(f"{folder} is a {kind}, with {found or 'nothing'} for {name}; {wanted}")
    channels = _json(folder / "unet" / "config.json").get("in_channels", CHANNELS)
    if channels != CHANNELS:
        raise WeightsError(f"{folder} is a {kind} whose UNet takes {channels} channels, not {CHANNELS}; {wanted}")


def _is_named(named: Mapping[str, Any], component: str) -> bool:
    value = named.get(component)
    return isinstance(value, list) and len(value) == 2 and value[0] is not None


def _image_size(unet: Mapping[str, Any], vae: Mapping[str, Any], folder: Path) -> int:
    size = unet.get("sample_size")
    if not isinstance(size, int):
        raise WeightsError(f"{folder}/unet/config.json has sample_size {size}; a number is expected, for square images")
    if vae.get("latents_mean") is not None or unet.get("time_cond_proj_dim") is not None:
        what = "normalises its latents" if vae.get("latents_mean") is not None else "reads its guidance scale (LCM)"
        raise WeightsError(f"{folder} {what}, unlike Stable Diffusion and SDXL; take one that does not")
    return size * int(2 ** (len(vae.get("block_out_channels", [0])) - 1))


def _factor(vae: Any) -> int:
    return int(2 ** (len(vae.block_out_channels) - 1))


def _scheduler(folder: Path) -> Any:
    """Return DDIM on the noise schedule of the folder's scheduler, which may be another sampler's."""
    from diffusers import DDIMScheduler

    path = folder / "scheduler" / "scheduler_config.json"
    config = _json(path)
    if "beta_schedule" not in config and not config.get("trained_betas"):
        raise WeightsError(f"{path} has no betas ({config.get('_class_name')}); DDIM needs a schedule that has")
    if (kind := config.get("prediction_type", "epsilon")) not in ("epsilon", "v_prediction"):
        raise WeightsError(f"{path} has prediction_type {kind!r}; epsilon or v_prediction is expected")
    try:
        return DDIMScheduler(**_known(DDIMScheduler, config))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{path} describes no schedule: {reason(error)}") from error


def _known(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of another sampler's configuration that this one has, too."""
    names = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
    return {name: value for name, value in config.items() if name in names}


def _tower(folder: Path, named: Mapping[str, Any], name: str, device: str) -> TextTower:
    from transformers import CLIPTokenizer

    place = folder / name.replace("text_encoder", "tokenizer")
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(place), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{place} has no CLIP tokenizer: {reason(error)}") from error
    return TextTower(tokenizer, _component(folder, named, name, device))


def _component(folder: Path, named: Mapping[str, Any], name: str, device: str) -> Any:
    """Read a network, frozen, float32."""
    import diffusers
    import transformers

    library, kind = named[name]
    found = getattr(diffusers if library == "diffusers" else transformers, kind)
    return load_network(folder / name, found, torch.float32).to(device).requires_grad_(requires_grad=False)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {reason(error)}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} describes nothing: expected an object")
    return found
