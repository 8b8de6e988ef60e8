from __future__ import annotations

import torch
from retouch.models.ddpm import DDPM256, build_ddpm
from retouch.models.unet import ddpm_network

from tests.helpers.golden_set import assert_within, ddpm_config, golden, weights_of


@torch.no_grad()
def test_outputs_are_those_of_the_authors_code() -> None:
    tensors, entry = golden("ddpm_celebahq.safetensors")
    network = ddpm_network(weights_of(tensors), ddpm_config(entry["config"]), "ddpm_celebahq.safetensors")
    out = network.module(tensors["in.x"], tensors["in.t"])
    assert_within(out, tensors["out.eps"], entry["tolerance"]["all"])
    assert_within(network.module(tensors["in.x"], tensors["in.t"].long()), out, entry["tolerance"]["all"])


def test_the_published_network_has_its_published_number_of_parameters() -> None:
    with torch.device("meta"):
        module = build_ddpm(DDPM256)
    assert sum(p.numel() for p in module.parameters()) == 113_673_219
