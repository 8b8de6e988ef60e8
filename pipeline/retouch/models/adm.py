"""Guided-diffusion UNets (Dhariwal & Nichol 2021) in diffusers' ``UNet2DModel``, from the published state dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import UNet2DModel

GROUPS = 32  # of every GroupNorm
NORM_EPS = 1e-5  # the DDPM family has 1e-6
# Width multipliers per level if a published config leaves channel_mult empty, by image size.
DEFAULT_MULT = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}


@dataclass(frozen=True)
class ADMConfig:
    """Architecture of one guided-diffusion UNet; the defaults are those of the 256 px unconditional one."""

    image_size: int = 256  # pixels a side; with attention_resolutions it decides which levels attend
    num_channels: int = 256  # width that channel_mult multiplies; a quarter of the time embedding's
    num_res_blocks: int = 2  # per level on the way down; one more on the way up
    channel_mult: tuple[float, ...] = DEFAULT_MULT[256]
    attention_resolutions: tuple[int, ...] = (32, 16, 8)  # pixels a side
    num_head_channels: int = 64  # width of one attention head
    learn_sigma: bool = True  # 6 output channels: eps, v
    num_classes: int = 0  # rows of label_emb; 0 has none

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(int(self.num_channels * mult) for mult in self.channel_mult)

    @property
    def attends(self) -> tuple[bool, ...]:
        """For each level, finest first, whether it has attention."""
        return tuple(self.image_size >> level in self.attention_resolutions for level in range(len(self.channel_mult)))


ADM256 = ADMConfig()  # 256x256_diffusion_uncond.pt, and the LSUN ones
ADM512 = ADMConfig(image_size=512, channel_mult=DEFAULT_MULT[512], num_classes=1000)  # 512x512_diffusion.pt
ADM_SMALL = ADMConfig(num_channels=128, num_res_blocks=1, attention_resolutions=(16,))  # afhq_dog_4m.pt, ffhq_10m.pt


class ADM(nn.Module):
    """A guided-diffusion UNet."""

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = _unet(config)
        self.label_embedding = nn.Embedding(config.num_classes, 4 * config.num_channels) if config.num_classes else None

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Return noise and variance interpolation at x_t.

        Args:
            x: [B,3,H,W] in the network's scale, float32.
            t: [B], original 0..999 scale, int or float.
            y: [B] int64 class labels. None adds no label embedding, also in a class-conditional network: the all-zero
                label vector of Blended Diffusion's appendix, and what DiffusionCLIP does with the 512 px network.

        Returns:
            [B,6,H,W] float32: eps, then v (eps alone, [B,3,H,W], without ``learn_sigma``).
        """
        unet = self.unet
        emb = unet.time_embedding(unet.time_proj(t.expand(len(x))))
        if y is not None:
            if self.label_embedding is None:
                raise ValueError("class labels for a network that has no classes: leave y out")
            emb = emb + self.label_embedding(y)
        hidden = unet.conv_in(x.to(unet.conv_in.weight.dtype))
        skips = (hidden,)
        for block in unet.down_blocks:
            hidden, residuals = block(hidden, emb)
            skips += residuals
        hidden = unet.mid_block(hidden, emb)
        for block in unet.up_blocks:
            count = len(block.resnets)
            hidden, skips = block(hidden, skips[-count:], emb), skips[:-count]
        return cast(Tensor, unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden.float()))))


def build_adm(config: ADMConfig) -> ADM:
    """Build the network with random weights, on the current default device (``meta`` allocates none)."""
    return ADM(config).eval()


def convert_adm(state: Mapping[str, Tensor], config: ADMConfig) -> dict[str, Tensor]:
    """Rename a published state dict to :class:`ADM`; names without a rule stay."""
    names = dict(_names(config))
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix, _, leaf = key.rpartition(".")
        if prefix.endswith(".qkv") and prefix in names:
            parts = _split_qkv(value, config.num_head_channels)
            converted |= {f"{names[prefix]}.{name}.{leaf}": part for name, part in parts.items()}
        elif prefix.endswith(".proj_out") and leaf == "weight":
            converted[f"{names.get(prefix, prefix)}.{leaf}"] = value.squeeze(-1)  # a Conv1d of width 1 is a Linear
        else:
            converted[f"{names.get(prefix, prefix)}.{leaf}"] = value
    return converted


def unconvert_adm(state: Mapping[str, Tensor], config: ADMConfig) -> dict[str, Tensor]:
    """Rename a state dict of :class:`ADM` to the published names: the inverse of ``convert_adm``."""
    names = {ours: theirs for theirs, ours in _names(config)}
    published: dict[str, Tensor] = {}
    for key, value in state.items():
        prefix, _, leaf = key.rpartition(".")
        block, _, part = prefix.rpartition(".")
        if part == "to_q" and block in names:
            parts = [state[f"{block}.{name}.{leaf}"] for name in ("to_q", "to_k", "to_v")]
            published[f"{names[block]}.{leaf}"] = _join_qkv(parts, config.num_head_channels)
        elif part in ("to_k", "to_v") and block in names:
            continue  # went with its q
        else:
            is_linear = names[prefix].endswith(".proj_out") and leaf == "weight"  # a Conv1d of width 1 in theirs
            published[f"{names[prefix]}.{leaf}"] = value.unsqueeze(-1) if is_linear else value
    return published


def _unet(config: ADMConfig) -> UNet2DModel:
    from diffusers import UNet2DModel
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps

    unet = UNet2DModel(
        sample_size=config.image_size,
        out_channels=6 if config.learn_sigma else 3,
        block_out_channels=config.widths,
        layers_per_block=config.num_res_blocks,
        down_block_types=tuple("AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in config.attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(config.attends)),
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=config.num_head_channels,
        norm_num_groups=GROUPS,
        attn_norm_num_groups=GROUPS,
        norm_eps=NORM_EPS,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=4 * config.num_channels,
    )
    # diffusers ties the sinusoid's width to the finest level's, which channel_mult 0.5 halves in the 512 px network.
    unet.time_proj = Timesteps(config.num_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
    unet.time_embedding = TimestepEmbedding(config.num_channels, 4 * config.num_channels)
    return unet


def _split_qkv(value: Tensor, head: int) -> dict[str, Tensor]:
    """Split q, k, v in the legacy order (q, k, v of head 0, q, k, v of head 1, ...); [3C,C,1] or [3C]."""
    value = value.reshape(-1, 3, head, *value.shape[1:2])
    return {name: value[:, i].flatten(0, 1) for i, name in enumerate(("to_q", "to_k", "to_v"))}


def _join_qkv(parts: Sequence[Tensor], head: int) -> Tensor:
    """The inverse of ``_split_qkv``: [3C,C,1] from three weights [C,C], [3C] from three biases [C]."""
    split = torch.stack([part.reshape(-1, head, *part.shape[1:]) for part in parts], dim=1).flatten(0, 2)
    return split.unsqueeze(-1) if split.ndim == 2 else split


def _names(config: ADMConfig) -> Iterator[tuple[str, str]]:
    """Yield published module names with ours."""
    yield from {
        "time_embed.0": "unet.time_embedding.linear_1",
        "time_embed.2": "unet.time_embedding.linear_2",
        "label_emb": "label_embedding",
        "input_blocks.0.0": "unet.conv_in",
        "out.0": "unet.conv_norm_out",
        "out.2": "unet.conv_out",
    }.items()
    yield from _resnet("middle_block.0", "unet.mid_block.resnets.0")
    yield from _attention("middle_block.1", "unet.mid_block.attentions.0")
    yield from _resnet("middle_block.2", "unet.mid_block.resnets.1")
    yield from _down_names(config)
    yield from _up_names(config)


def _down_names(config: ADMConfig) -> Iterator[tuple[str, str]]:
    index = 0
    for level, attends in enumerate(config.attends):
        ours = f"unet.down_blocks.{level}"
        for block in range(config.num_res_blocks):
            index += 1
            yield from _resnet(f"input_blocks.{index}.0", f"{ours}.resnets.{block}")
            if attends:
                yield from _attention(f"input_blocks.{index}.1", f"{ours}.attentions.{block}")
        if level < len(config.widths) - 1:
            index += 1
            yield from _resnet(f"input_blocks.{index}.0", f"{ours}.downsamplers.0")


def _up_names(config: ADMConfig) -> Iterator[tuple[str, str]]:
    index = 0
    for level, attends in enumerate(reversed(config.attends)):
        ours = f"unet.up_blocks.{level}"
        for block in range(config.num_res_blocks + 1):
            theirs = f"output_blocks.{index}"
            yield from _resnet(f"{theirs}.0", f"{ours}.resnets.{block}")
            if attends:
                yield from _attention(f"{theirs}.1", f"{ours}.attentions.{block}")
            if block == config.num_res_blocks and level < len(config.widths) - 1:
                yield from _resnet(f"{theirs}.{2 if attends else 1}", f"{ours}.upsamplers.0")
            index += 1


def _resnet(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for a, b in (
        ("in_layers.0", "norm1"),
        ("in_layers.2", "conv1"),
        ("emb_layers.1", "time_emb_proj"),
        ("out_layers.0", "norm2"),
        ("out_layers.3", "conv2"),
        ("skip_connection", "conv_shortcut"),
    ):
        yield f"{theirs}.{a}", f"{ours}.{b}"


def _attention(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    yield f"{theirs}.norm", f"{ours}.group_norm"
    yield f"{theirs}.qkv", ours
    yield f"{theirs}.proj_out", f"{ours}.to_out.0"
