"""The editors that are measured, with the shipped weights, or random weights at full or reduced width.

Their inputs are drawn scenes, enlarged to the network's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from retouch import plugins
from retouch.diffusion.schedule import named
from retouch.editors.blended_diffusion.editor import BlendedDiffusion, speed_up
from retouch.editors.blended_diffusion.sampler import Networks
from retouch.editors.diffusionclip.editor import DiffusionClip
from retouch.editors.diffusionclip.networks import TunedNetworks
from retouch.editors.paint_by_example.editor import PaintByExample
from retouch.editors.runtime import compiled
from retouch.errors import ConfigError
from retouch.models.adm import ADM256, ADMConfig, build_adm
from retouch.models.clip import Clip, load_clip
from retouch.models.ddpm import DDPM256, DDPMConfig, build_ddpm
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.scenes import HELD_OUT, edit_task
from retouch.models.paint_by_example import PaintByExampleConfig, build_networks
from retouch.models.unet import Network, load_unet
from retouch.schema import Batch, Pixels

EDITORS: Final = ("blended_diffusion", "paint_by_example", "diffusionclip")
SIZES: Final = ("embedded", "reduced", "full")
REDUCED_STEPS: Final = 4  # default at reduced size: only its time shares and ratios matter

# The parameters of the shipped jobs.
EMBEDDED: Final[Mapping[str, Mapping[str, Any]]] = {
    "blended_diffusion": {"timesteps": 30, "skip_timesteps": 1, "clip_guidance_lambda": 300.0},
    "paint_by_example": {"steps": 20, "sampler": "ddim", "guidance_scale": 2.0},
    "diffusionclip": {"t_0": 500, "n_inv": 40, "n_gen": 40},
}
# Random networks do not predict the noise: weak guidance keeps the samples finite and costs as much as strong one.
RANDOM: Final[Mapping[str, Mapping[str, Any]]] = {
    "blended_diffusion": {"clip_guidance_lambda": 1e-3, "range_lambda": 0.0},
    "paint_by_example": {},
    "diffusionclip": {},
}

# CLIP ViT-B/16 as open_clip describes it, and a quarter as wide; both see 224 px.
VIT_B_16: Final = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
TEXT: Final = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
NARROW_VIT: Final = {**VIT_B_16, "width": 192}
NARROW_TEXT: Final = {**TEXT, "width": 128, "heads": 2}

NARROW_LATENT: Final = PaintByExampleConfig(  # a fifth of the UNet's width, an eighth of the autoencoder's
    unet={
        "sample_size": 64,
        "in_channels": 9,
        "block_out_channels": (64, 128, 256, 256),
        "cross_attention_dim": 192,
        "attention_head_dim": 8,
    },
    vae={
        "block_out_channels": (16, 32, 64, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": 16,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    },
    vision={
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 4,
        "image_size": 224,
        "patch_size": 14,
    },
    context_dim=192,
)
ADM_CONFIGS: Final[Mapping[str, ADMConfig]] = {
    "full": ADM256,
    "reduced": replace(ADM256, num_channels=32, num_head_channels=8),
}
DDPM_CONFIGS: Final[Mapping[str, DDPMConfig]] = {"full": DDPM256, "reduced": replace(DDPM256, ch=32)}
LATENT_CONFIGS: Final[Mapping[str, PaintByExampleConfig]] = {"full": PaintByExampleConfig(), "reduced": NARROW_LATENT}


@dataclass(frozen=True)
class Subject:
    """An editor to measure, with its inputs."""

    name: str
    size: str
    device: str
    editor: Any
    parts: Mapping[str, Sequence[nn.Module]]  # modules that are timed as unet, clip and vae
    plain: tuple[nn.Module, Clip] | None = None  # Blended Diffusion's networks without our optimizations

    @property
    def image_size(self) -> int:
        """Height and width of the network's input."""
        return int(self.editor.image_size)

    def batch(self, entries: int, first: int = 0) -> Batch:
        """Draw rows from number ``first`` on, all different: an editor may cache an image."""
        tasks = [edit_task(HELD_OUT + first + entry) for entry in range(entries)]
        image = self._enlarged(np.stack([task.scene.image for task in tasks]))
        return Batch(
            image=image,
            mask=self._enlarged(np.stack([task.mask for task in tasks])),
            prompt=[task.prompt for task in tasks],
            seed=list(range(first, first + entries)),
            exemplar=np.ascontiguousarray(image[:, ::-1]) if "exemplar" in self.editor.params.needs else None,
        )

    def _enlarged(self, drawn: Any) -> Any:
        times = -(-self.image_size // drawn.shape[1])
        large: Pixels = drawn.repeat(times, axis=1).repeat(times, axis=2)
        return large[:, : self.image_size, : self.image_size]


def subject(
    name: str, size: str, device: str = "cpu", *, steps: int | None = None, params: Mapping[str, Any] | None = None
) -> Subject:
    """Build a subject.

    Args:
        name: one of ``EDITORS``.
        size: ``embedded``, ``reduced`` or ``full``.
        device: where the networks run.
        steps: sampling steps; None: as in the shipped jobs, the editor's default at full size, 4 at reduced size.
        params: parameters of the editor, which override those of the size.

    Raises:
        ConfigError: unknown editor or size, or invalid params.
    """
    if name not in EDITORS:
        raise ConfigError(f"no editor named {name} to measure; use one of: {', '.join(EDITORS)}")
    if size not in SIZES:
        raise ConfigError(f"no networks of {name} at size {size}; use one of: {', '.join(SIZES)}")
    if steps is None and size == "reduced":
        steps = REDUCED_STEPS
    own = EMBEDDED if size == "embedded" else RANDOM
    given = {**own[name], **_steps(name, steps), **(params or {})}
    if name == "blended_diffusion":
        return _blended(size, device, given)
    return _exemplar(size, device, given) if name == "paint_by_example" else _translation(size, device, given)


def _steps(name: str, steps: int | None) -> dict[str, int]:
    if steps is None:
        return {}
    names = {"blended_diffusion": ("timesteps",), "paint_by_example": ("steps",), "diffusionclip": ("n_inv", "n_gen")}
    skip = {"skip_timesteps": 0} if name == "blended_diffusion" else {}
    return dict.fromkeys(names[name], steps) | skip


def _blended(size: str, device: str, params: Mapping[str, Any]) -> Subject:
    made: Any = plugins.check_params(BlendedDiffusion.Params, params, "--set")
    if size == "embedded":
        files = _shipped("unet", "clip")
        editor = BlendedDiffusion.load(made, files, device)
        plain = load_unet(files["unet"], device).module, load_clip(files["clip"], device)
    else:
        config = ADM_CONFIGS[size]
        unet, clip = _on(build_adm(config), device), random_clip(size, device)
        speed_up(unet, clip)
        plain = unet, clip  # a transformer has no batch norms to fold
        networks = Networks(compiled(unet, made.compile), named("linear"), config.learn_sigma, clip)
        editor = BlendedDiffusion(networks, clip, made, config.image_size, device)
    visual: Any = editor.clip.model
    unet_module: Any = editor.networks.unet
    parts = {"unet": [unet_module], "clip": [visual.visual, visual.transformer]}
    return Subject("blended_diffusion", size, device, editor, parts, plain)


def _exemplar(size: str, device: str, params: Mapping[str, Any]) -> Subject:
    made: Any = plugins.check_params(PaintByExample.Params, params, "--set")
    if size == "embedded":
        editor = PaintByExample.load(made, _shipped("exemplar_vae", "exemplar_unet", "exemplar_encoder"), device)
    else:
        networks = build_networks(LATENT_CONFIGS[size])
        for module in networks.parts().values():
            _on(module, device)
        networks = replace(networks, unet=compiled(networks.unet, made.compile))
        editor = PaintByExample(networks, made, device)
    found = editor.networks
    parts = {"unet": [found.unet], "clip": [found.encoder], "vae": [found.vae.encoder, found.vae.decoder]}
    return Subject("paint_by_example", size, device, editor, parts)


def _translation(size: str, device: str, params: Mapping[str, Any]) -> Subject:
    made: Any = plugins.check_params(DiffusionClip.Params, params, "--set")
    if size == "embedded":
        files = {**_shipped("unet"), "tuned": str(SHIPPED / "blue.safetensors")}
        editor = DiffusionClip.load(made, files, device)
    else:
        module = compiled(_on(build_ddpm(DDPM_CONFIGS[size]), device), made.compile)
        source = Network(module, DDPM_CONFIGS[size].image_size, learn_sigma=False)
        editor = DiffusionClip(_OneNetwork(source), made, device)
    networks = [editor.networks.source, *editor.networks.get(["tuned"])]
    parts = {"unet": list({id(network.module): network.module for network in networks}.values())}
    return Subject("diffusionclip", size, device, editor, parts)


class _OneNetwork(TunedNetworks):
    """The source network in place of every tuned one: the same size and speed, and no file."""

    def __init__(self, source: Network) -> None:
        self.source = source

    def get(self, names: Sequence[str]) -> list[Network]:
        """Return the source network for each name."""
        return [self.source for _ in names]


def random_clip(size: str, device: str) -> Clip:
    """Return CLIP ViT-B/16, or a narrower one, with random weights."""
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    vision, text = (VIT_B_16, TEXT) if size == "full" else (NARROW_VIT, NARROW_TEXT)
    model = open_clip.CLIP(embed_dim=512, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return Clip(_on(model, device), SimpleTokenizer(), int(vision["image_size"]), tuple(mean), tuple(std))


def _shipped(*roles: str) -> dict[str, str]:
    return {role: str(SHIPPED / f"{role}.safetensors") for role in roles}


def _on(module: Any, device: str) -> Any:
    """Move a network to a device as the editors do: frozen, and with channels last on CUDA."""
    module.to(device).eval().requires_grad_(requires_grad=False)
    return module.to(memory_format=torch.channels_last) if device.startswith("cuda") else module
