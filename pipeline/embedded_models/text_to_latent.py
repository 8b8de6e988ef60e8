"""The networks of the text-to-latent folders, and the folders themselves in diffusers' layout."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from embedded_models.captions import MAX_TOKENS, tokenizer

LATENTS: Final = 4
CONDITIONS: Final = 5  # mask and masked latents
SIDE: Final = 8  # of the latents
UNET: Final[dict[str, Any]] = {
    "sample_size": SIDE,
    "out_channels": LATENTS,
    "block_out_channels": [56, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",  # text comes in at the same 4x4 in three other places
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,  # diffusers' name for the number of heads
    "cross_attention_dim": 64,
    "norm_num_groups": 8,
}
TEXT: Final[dict[str, Any]] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
    "projection_dim": 64,
}
SCHEDULE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",  # the first step is at pure noise however few there are
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class TextToLatent(nn.Module):
    """Text encoder and UNet, for one optimizer."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        tokens = tokenizer()
        special = {name: getattr(tokens, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        self.text = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokens), **special, **TEXT))
        self.unet = UNet2DConditionModel(in_channels=in_channels, **UNET)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """Return the prediction [B, 4, 8, 8] for UNet inputs [B, C, 8, 8] with captions' tokens [B, 32]."""
        found: Tensor = self.unet(x, t, self.text(ids)[0], return_dict=False)[0]
        return found


def without_mask(networks: TextToLatent, grey: Tensor) -> TextToLatent:
    """Return a 4-channel copy of 9-channel networks that sees what they see where all is masked.

    The first convolution's constant inputs become part of its bias: a mask of ones, and ``grey`` [4, 8, 8], the scaled
    latents of a mid-grey image. At the border, where zeros pad them, this is an approximation.
    """
    copy = deepcopy(networks)
    before: nn.Conv2d = copy.unet.conv_in
    after = nn.Conv2d(LATENTS, before.out_channels, before.kernel_size, padding=before.padding)  # type: ignore[arg-type]
    constant = torch.cat([torch.ones(1), grey.mean(dim=(1, 2)).cpu()])
    with torch.no_grad():
        after.weight.copy_(before.weight[:, :LATENTS])
        assert before.bias is not None
        assert after.bias is not None
        after.bias.copy_(before.bias + before.weight[:, LATENTS:].cpu().sum(dim=(2, 3)) @ constant)
    copy.unet.conv_in = after
    copy.unet.register_to_config(in_channels=LATENTS)
    return copy


def save_folder(networks: nn.Module, vae: AutoencoderKL, folder: Path) -> None:
    """Write a diffusers pipeline of 9-channel or 4-channel networks, weights in float16; replaces the folder."""
    assert isinstance(networks, TextToLatent)
    parts = {
        "vae": deepcopy(vae).cpu().half(),
        "unet": deepcopy(networks.unet).cpu().half(),
        "text_encoder": deepcopy(networks.text).cpu().half(),
    }
    kind = StableDiffusionPipeline if networks.unet.config.in_channels == LATENTS else StableDiffusionInpaintPipeline
    pipeline = kind(
        **parts,
        tokenizer=tokenizer(),
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary)
    _stored_in_half(temporary / "text_encoder" / "config.json")
    for path in temporary.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors makes files that only their owner reads
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _stored_in_half(config: Path) -> None:
    """Have transformers load a text encoder to float32, as diffusers loads the other parts without a dtype."""
    config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")
