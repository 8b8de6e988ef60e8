"""A tiny family of networks on disk: a source UNet, fine-tuned copies and a CLIP, with random weights."""

import json

import torch
from retouch.models.pixel_unet import PixelUNet
from safetensors.torch import save_file

from tests.helpers.tiny_clip import write_own_layout

SIZE = 16
UNET = {
    "image_size": SIZE,
    "schedule": "cosine",
    "timesteps": 1000,
    "prediction": "v",
    "fold": 2,
    "unet": {
        "sample_size": SIZE // 2,
        "in_channels": 12,
        "out_channels": 12,
        "block_out_channels": [16, 32],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 16,
        "norm_num_groups": 8,
    },
}


def write_unet(path, config=UNET, tuned=0):
    """Write the source network, or its ``tuned``-th fine-tuned copy; return the file's path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = PixelUNet.from_config(config)
        torch.manual_seed(tuned)
        moved = {
            name: value + 0.05 * bool(tuned) * torch.randn_like(value) for name, value in unet.state_dict().items()
        }
    path.with_suffix(".json").write_text(json.dumps(config))
    save_file(moved, path)
    return str(path)


def write_family(folder, tuned=("tuned", "other", "third")):
    """Write ``unet``, ``clip`` and the tuned networks; return file by role."""
    weights = {role: write_unet(folder / f"{role}.safetensors", tuned=i) for i, role in enumerate(("unet", *tuned))}
    return {**weights, "clip": write_own_layout(folder, tower="resnet")[0]}
