"""The exemplar's condition is the original authors', to the last bits of float32."""

from __future__ import annotations

import torch
from retouch.models.checkpoint import load_strictly
from retouch.models.exemplar_encoder import build_encoder, convert_ldm_encoder

from tests.helpers.golden_set import assert_within, golden, weights_of
from tests.helpers.tiny_paint_by_example import TINY, tiny, vision_keywords

FILE = "pbe_cond_stage.safetensors"


def test_the_tower_the_mapper_and_the_context_are_the_original_authors() -> None:
    tensors, entry = golden(FILE)
    config = entry["config"]
    encoder = build_encoder(vision_keywords(config), config["out_dim"], config["mapper_layers"]).eval()
    load_strictly(encoder, convert_ldm_encoder(weights_of(tensors)), FILE, "the tiny encoder")
    limit = entry["tolerance"]["all"]
    with torch.no_grad():
        seen = encoder.model(pixel_values=tensors["in.pixel_values"])
        assert_within(seen.pooler_output, tensors["out.pooled"], limit, "pooled")
        mapped = encoder.mapper(tensors["in.class_token"][:, None])
        assert_within(mapped, tensors["out.mapper"], limit, "mapper")
        assert_within(encoder.final_layer_norm(mapped), tensors["out.final_ln"], limit, "final_ln")
        assert_within(encoder.context(tensors["in.class_token"][:, None]), tensors["out.context_from_token"], limit)
        assert_within(encoder(tensors["in.pixel_values"]), tensors["out.context"], limit, "context")
    assert torch.equal(encoder.uncond_vector, tensors["model.learnable_vector"])


def test_the_bottleneck_is_one_token_and_the_ablation_all_of_them() -> None:
    encoder = tiny().encoder
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    one, every = encoder(pixels), encoder(pixels, tokens="all")
    assert one.shape == (2, 1, TINY.context_dim)
    assert every.shape == (2, 1 + (28 // 14) ** 2, TINY.context_dim)
    assert not torch.allclose(every[:, :1], one)  # its patches have met in the mapper


def test_the_published_rule_gives_a_fifth_of_the_towers_layers() -> None:
    assert len(tiny().encoder.mapper.blocks) == 2
    assert len(build_encoder(TINY.vision, 24, mapper_layers=3).mapper.blocks) == 3
