"""Paint by Example's condition: an exemplar squeezed through CLIP's class token (Yang et al. 2022, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig

Tokens = Literal["class", "all"]

# Buffers that older transformers saved among the weights.
POSITION_IDS = "embeddings.position_ids"


class ExemplarEncoder(nn.Module):
    """Image encoder of the tokens that the UNet attends to, with the tensor names of the published ``image_encoder``.

    Args:
        vision_config: of the CLIP image tower (ViT-L/14 as published).
        context_dim: width of a token, the UNet's ``cross_attention_dim``.
        mapper_layers: transformer blocks after the tower; None for the published rule, a fifth of the tower's layers.
    """

    def __init__(self, vision_config: CLIPVisionConfig, context_dim: int, mapper_layers: int | None = None) -> None:
        from transformers import CLIPVisionModel

        super().__init__()
        layers = (vision_config.num_hidden_layers + 1) // 5 if mapper_layers is None else mapper_layers
        self.model: Any = CLIPVisionModel(vision_config)
        self.mapper = _Mapper(vision_config.hidden_size, layers)
        self.final_layer_norm = nn.LayerNorm(vision_config.hidden_size)
        self.proj_out = nn.Linear(vision_config.hidden_size, context_dim)
        self.uncond_vector = nn.Parameter(torch.randn(1, 1, context_dim))  # replaces a dropped condition in training

    @property
    def vision_config(self) -> CLIPVisionConfig:
        """The image tower's configuration."""
        return cast("CLIPVisionConfig", self.model.config)

    def forward(self, pixels: Tensor, tokens: Tokens = "class") -> Tensor:
        """Return the context [B,1,context_dim] of exemplars.

        Args:
            pixels: [B,3,S,S] on CLIP's normalised scale, S the tower's image size.
            tokens: ``class``, the bottleneck; ``all`` lets every patch through, [B,1+patches,context_dim]: the paper's
                ablation, which copies the exemplar instead of re-posing it. Weights must be trained for it.
        """
        seen = self.model(pixel_values=pixels)
        if tokens == "class":
            return self.context(seen.pooler_output[:, None])
        return self.context(self.model.post_layernorm(seen.last_hidden_state))

    def context(self, features: Tensor) -> Tensor:
        """Map the tower's output after its last norm, [B,N,hidden], to [B,N,context_dim]."""
        return cast(Tensor, self.proj_out(self.final_layer_norm(self.mapper(features))))


class _Mapper(nn.Module):
    """Pre-norm transformer blocks of one head; with one token, attention is a linear map of the value."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        from diffusers.models.attention import BasicTransformerBlock

        self.blocks = nn.ModuleList(
            BasicTransformerBlock(width, 1, width, activation_fn="gelu", attention_bias=True) for _ in range(layers)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


def build_encoder(vision: Mapping[str, Any], context_dim: int, mapper_layers: int | None = None) -> ExemplarEncoder:
    """Build the encoder that ``vision``, keywords of ``CLIPVisionConfig``, describes, with random weights."""
    from transformers import CLIPVisionConfig

    return ExemplarEncoder(CLIPVisionConfig(**vision), context_dim, mapper_layers)


def materialise(encoder: ExemplarEncoder) -> None:
    """Fill in the buffers that no checkpoint holds, for an encoder that was built on the meta device."""
    embeddings = encoder.model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]


def convert_folder_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the diffusers folder's tensors: the tower was wrapped once more when they were written."""
    renamed = {name.replace("model.vision_model.", "model.", 1): value for name, value in state.items()}
    return {name: value for name, value in renamed.items() if name != f"model.{POSITION_IDS}"}


def convert_ldm_encoder(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the Lightning checkpoint's tensors (``cond_stage_model``, ``proj_out``, ``learnable_vector``).

    The fused ``c_qkv`` is q, k, v one after the other, since the mapper has one head.
    """
    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "learnable_vector":
            converted["uncond_vector"] = value
        elif ".attn.c_qkv." in name:
            block, leaf = name.split(".attn.c_qkv.")
            for part, third in zip(("to_q", "to_k", "to_v"), value.chunk(3), strict=True):
                converted[f"{_renamed(block)}.attn1.{part}.{leaf}"] = third
        else:
            converted[_renamed(name)] = value
    return {name: value for name, value in converted.items() if name != f"model.{POSITION_IDS}"}


_LDM = (
    ("cond_stage_model.transformer.vision_model.", "model."),
    ("cond_stage_model.mapper.resblocks.", "mapper.blocks."),
    ("cond_stage_model.final_ln.", "final_layer_norm."),
    (".attn.c_proj.", ".attn1.to_out.0."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm3."),
    (".mlp.c_fc.", ".ff.net.0.proj."),
    (".mlp.c_proj.", ".ff.net.2."),
)


def _renamed(name: str) -> str:
    for theirs, ours in _LDM:
        name = name.replace(theirs, ours)
    return name
