"""DDPM UNets (CelebA-HQ, LSUN) of DiffusionCLIP in diffusers' ``UNet2DModel``, from published state dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

NORM_EPS = 1e-6  # the guided-diffusion family has 1e-5


@dataclass(frozen=True)
class DDPMConfig:
    """Architecture of one DDPM UNet; the defaults are those of celeba_hq.ckpt, bedroom.ckpt and church_outdoor.ckpt."""

    image_size: int = 256  # pixels a side; with attn_resolutions it decides which levels attend
    ch: int = 128  # width that ch_mult multiplies
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2  # per level on the way down; one more on the way up
    attn_resolutions: tuple[int, ...] = (16,)  # pixels a side

    @property
    def attends(self) -> tuple[bool, ...]:
        """For each level, finest first, whether it has attention."""
        return tuple(self.image_size >> level in self.attn_resolutions for level in range(len(self.ch_mult)))


DDPM256 = DDPMConfig()


class DDPM(nn.Module):
    """A DDPM UNet."""

    def __init__(self, config: DDPMConfig) -> None:
        from diffusers import UNet2DModel

        super().__init__()
        self.config = config
        self.unet = UNet2DModel(
            sample_size=config.image_size,
            block_out_channels=tuple(config.ch * mult for mult in config.ch_mult),
            layers_per_block=config.num_res_blocks,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in config.attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(config.attends)),
            attention_head_dim=None,  # one head over all channels
            downsample_padding=0,  # pads right and bottom by one instead
            flip_sin_to_cos=False,  # sine first
            freq_shift=1,  # exponents divided by half - 1
            norm_eps=NORM_EPS,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return eps, [B,3,H,W] float32, at x_t [B,3,H,W] and t [B] on the original 0..999 scale, int or float."""
        return cast(Tensor, self.unet(x, t.expand(len(x)), return_dict=False)[0])


def build_ddpm(config: DDPMConfig) -> DDPM:
    """Build the network with random weights, on the current default device (``meta`` allocates none)."""
    return DDPM(config).eval()


def convert_ddpm(state: Mapping[str, Tensor], config: DDPMConfig) -> dict[str, Tensor]:
    """Rename a published state dict to :class:`DDPM`; names without a rule stay."""
    names = dict(_names(config))
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix, _, leaf = key.rpartition(".")
        ours = names.get(prefix, prefix)
        is_conv_of_width_one = ".attentions." in ours and value.ndim == 4  # a Linear in ours
        converted[f"{ours}.{leaf}"] = value[:, :, 0, 0] if is_conv_of_width_one else value
    return converted


def unconvert_ddpm(state: Mapping[str, Tensor], config: DDPMConfig) -> dict[str, Tensor]:
    """Rename a state dict of :class:`DDPM` to the published names: the inverse of ``convert_ddpm``."""
    names = {ours: theirs for theirs, ours in _names(config)}
    published: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix, _, leaf = key.rpartition(".")
        is_linear_of_attention = ".attentions." in prefix and value.ndim == 2  # a Conv2d of width 1 in theirs
        published[f"{names[prefix]}.{leaf}"] = value[:, :, None, None] if is_linear_of_attention else value
    return published


def _names(config: DDPMConfig) -> Iterator[tuple[str, str]]:
    """Yield published module names with ours. Theirs count up blocks from the finest level, ours from the coarsest."""
    yield from {
        "temb.dense.0": "unet.time_embedding.linear_1",
        "temb.dense.1": "unet.time_embedding.linear_2",
        "conv_in": "unet.conv_in",
        "norm_out": "unet.conv_norm_out",
        "conv_out": "unet.conv_out",
    }.items()
    yield from _resnet("mid.block_1", "unet.mid_block.resnets.0")
    yield from _attention("mid.attn_1", "unet.mid_block.attentions.0")
    yield from _resnet("mid.block_2", "unet.mid_block.resnets.1")
    coarsest = len(config.ch_mult) - 1
    for level, attends in enumerate(config.attends):
        down, up = f"unet.down_blocks.{level}", f"unet.up_blocks.{coarsest - level}"
        for block in range(config.num_res_blocks):
            yield from _block(f"down.{level}", down, block, attends)
        for block in range(config.num_res_blocks + 1):
            yield from _block(f"up.{level}", up, block, attends)
        yield f"down.{level}.downsample.conv", f"{down}.downsamplers.0.conv"
        yield f"up.{level}.upsample.conv", f"{up}.upsamplers.0.conv"


def _block(theirs: str, ours: str, block: int, attends: bool) -> Iterator[tuple[str, str]]:
    yield from _resnet(f"{theirs}.block.{block}", f"{ours}.resnets.{block}")
    if attends:
        yield from _attention(f"{theirs}.attn.{block}", f"{ours}.attentions.{block}")


def _resnet(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for a, b in (
        ("norm1", "norm1"),
        ("conv1", "conv1"),
        ("temb_proj", "time_emb_proj"),
        ("norm2", "norm2"),
        ("conv2", "conv2"),
        ("nin_shortcut", "conv_shortcut"),
    ):
        yield f"{theirs}.{a}", f"{ours}.{b}"


def _attention(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for a, b in (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
        yield f"{theirs}.{a}", f"{ours}.{b}"
