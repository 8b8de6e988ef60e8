"""Rename the tensors of latent-diffusion checkpoints (UNet with cross-attention, KL autoencoder) to diffusers' names.

For Stable Diffusion 1.x and its derivatives. The number of blocks per level is read off the names, so that a small
network of the same architecture loads like the published one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

UNET = "model.diffusion_model."
VAE = "first_stage_model."

_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "middle_block.0": "mid_block.resnets.0",
    "middle_block.1": "mid_block.attentions.0",
    "middle_block.2": "mid_block.resnets.1",
}
_RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
)
_VAE = (
    ("nin_shortcut", "conv_shortcut"),
    ("norm_out", "conv_norm_out"),
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.norm.", "mid_block.attentions.0.group_norm."),
    ("mid.attn_1.q.", "mid_block.attentions.0.to_q."),
    ("mid.attn_1.k.", "mid_block.attentions.0.to_k."),
    ("mid.attn_1.v.", "mid_block.attentions.0.to_v."),
    ("mid.attn_1.proj_out.", "mid_block.attentions.0.to_out.0."),
    ("downsample.conv", "downsamplers.0.conv"),
    ("upsample.conv", "upsamplers.0.conv"),
)
# Names of diffusers before 0.14, which the published folder's autoencoder has.
_OLD_ATTENTION = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)


def convert_unet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a UNet's state dict, without the prefix ``UNET``, to ``UNet2DConditionModel``; unknown names stay."""
    levels = dict(_levels(state))
    return {_unet_name(name, levels): value for name, value in state.items()}


def convert_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an autoencoder's state dict, without the prefix ``VAE``, to ``AutoencoderKL``; unknown names stay."""
    last = max((int(found[1]) for name in state if (found := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    return {_vae_name(name, last): _linear(name, value) for name, value in state.items()}


def convert_old_vae(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state dict of an ``AutoencoderKL`` from an old diffusers; current names stay."""
    return {_replaced(name, _OLD_ATTENTION): value for name, value in state.items()}


def _levels(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield ``input_blocks.4`` and ``output_blocks.4`` with their level and place in it."""
    down = {int(name.split(".")[1]) for name in state if name.startswith("input_blocks.")}
    pools = sorted(int(name.split(".")[1]) for name in state if re.match(r"input_blocks\.\d+\.0\.op\.weight", name))
    size = pools[0] if pools else max(down, default=1)  # residual blocks per level, and the downsampler
    for index in down - {0}:
        yield f"input_blocks.{index}", f"down_blocks.{(index - 1) // size}|{(index - 1) % size}"
    up = len({name.split(".")[1] for name in state if name.startswith("output_blocks.")})
    per_level = max(up // (len(pools) + 1), 1)
    for index in range(up):
        yield f"output_blocks.{index}", f"up_blocks.{index // per_level}|{index % per_level}"


def _unet_name(name: str, levels: Mapping[str, str]) -> str:
    found = re.match(r"((?:in|out)put_blocks\.\d+)\.(\d)\.(.+)$", name)
    if found is None or found[1] not in levels:
        for theirs, ours in _UNET_ENDS.items():
            if name.startswith(f"{theirs}."):
                return _replaced(ours + name[len(theirs) :], _RESNET)
        return name
    block, _, place = levels[found[1]].partition("|")
    rest = found[3]
    if rest.startswith("op."):
        return f"{block}.downsamplers.0.conv.{rest[3:]}"
    if rest.startswith("conv."):
        return f"{block}.upsamplers.0.{rest}"
    if found[2] == "0":
        return f"{block}.resnets.{place}.{_replaced(rest, _RESNET)}"
    return f"{block}.attentions.{place}.{rest}"


def _vae_name(name: str, last: int) -> str:
    name = re.sub(r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1.", name)
    name = re.sub(r"^decoder\.up\.(\d+)\.", lambda found: f"decoder.up_blocks.{last - int(found[1])}.", name)
    name = re.sub(r"\.block\.(\d+)\.", r".resnets.\1.", name)
    return _replaced(name, _VAE)


def _linear(name: str, value: Tensor) -> Tensor:
    """Return a weight of the attention's convolutions of width 1, which are linear layers in diffusers."""
    is_conv = ".mid.attn_1." in f".{name}" and value.ndim == 4
    return value[:, :, 0, 0] if is_conv else value


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for theirs, ours in pairs:
        name = name.replace(theirs, ours)
    return name
