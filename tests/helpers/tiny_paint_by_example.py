"""Paint by Example's architecture for the golden configurations, and a tiny one of the published kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from retouch.models.paint_by_example import PaintByExampleConfig, PaintByExampleNetworks, build_networks


def unet_keywords(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``UNet2DConditionModel``'s keywords, from those of latent diffusion's ``UNetModel``."""
    mult = config["channel_mult"]
    attends = [2**level in config["attention_resolutions"] for level in range(len(mult))]
    return {
        "sample_size": config["image_size"],
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": tuple(config["model_channels"] * m for m in mult),
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "cross_attention_dim": config["context_dim"],
        "attention_head_dim": config["num_heads"],
    }


def vae_keywords(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``AutoencoderKL``'s keywords, from those of latent diffusion's ``AutoencoderKL``."""
    levels = len(config["ch_mult"])
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_ch"],
        "latent_channels": config["z_channels"],
        "block_out_channels": tuple(config["ch"] * m for m in config["ch_mult"]),
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "sample_size": config["resolution"],
        "scaling_factor": config["scale_factor"],
    }


def vision_keywords(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``CLIPVisionConfig``'s keywords."""
    return {
        "hidden_size": config["vision_hidden"],
        "num_hidden_layers": config["vision_layers"],
        "num_attention_heads": config["vision_heads"],
        "intermediate_size": config["vision_intermediate"],
        "image_size": config["vision_image"],
        "patch_size": config["vision_patch"],
        "hidden_act": config["vision_act"],
    }


TINY = PaintByExampleConfig(
    unet={
        "sample_size": 8,
        "in_channels": 9,
        "block_out_channels": (32, 64),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 2,
    },
    vae={
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "sample_size": 16,
        "scaling_factor": 0.5,
    },
    vision={
        "hidden_size": 32,
        "num_hidden_layers": 9,  # a mapper of two blocks, by the published rule
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 14,
    },
    context_dim=24,
)


def tiny(seed: int = 0, config: PaintByExampleConfig = TINY) -> PaintByExampleNetworks:
    """Return networks with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = build_networks(config)
    for module in networks.parts().values():
        module.requires_grad_(requires_grad=False)
    return networks
