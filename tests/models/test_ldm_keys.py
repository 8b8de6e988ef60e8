"""Latent diffusion's networks, loaded from the published names, compute what the original authors' code computes."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from retouch.models.checkpoint import load_strictly
from retouch.models.ldm_keys import UNET, VAE, convert_old_vae, convert_unet, convert_vae

from tests.helpers.golden_set import assert_within, golden, weights_of
from tests.helpers.tiny_paint_by_example import tiny, unet_keywords, vae_keywords


def test_the_unet_predicts_the_original_authors_noise() -> None:
    tensors, entry = golden("pbe_unet.safetensors")
    unet = UNet2DConditionModel(**unet_keywords(entry["config"])).eval()
    load_strictly(unet, convert_unet(weights_of(tensors, f"model.{UNET}")), "golden", "the tiny UNet")
    with torch.no_grad():
        eps = unet(tensors["in.x"], tensors["in.t"], tensors["in.context"]).sample
    assert_within(eps, tensors["out.eps"], entry["tolerance"]["all"])


def test_the_autoencoder_encodes_and_decodes_as_the_original_authors() -> None:
    tensors, entry = golden("pbe_vae.safetensors")
    vae = AutoencoderKL(**vae_keywords(entry["config"])).eval()
    load_strictly(vae, convert_vae(weights_of(tensors, f"model.{VAE}")), "golden", "the tiny autoencoder")
    limit, factor = entry["tolerance"]["all"], entry["config"]["scale_factor"]
    with torch.no_grad():
        posterior = vae.encode(tensors["in.image"]).latent_dist
        sample = posterior.mean + posterior.std * tensors["in.noise"]
        decoded = vae.decode(tensors["in.latent"] / factor).sample
    assert_within(posterior.mean, tensors["out.mean"], limit, "mean")
    assert_within(posterior.logvar, tensors["out.logvar"], limit, "logvar")
    assert_within(posterior.mode(), tensors["out.mode"], limit, "mode")
    assert_within(factor * sample, tensors["out.latent"], limit, "latent")
    assert_within(decoded, tensors["out.decoded"], limit, "decoded")


def test_an_autoencoder_of_an_old_diffusers_gets_todays_names() -> None:
    today = tiny().vae.state_dict()
    old = {
        name.replace(".to_q.", ".query.").replace(".to_k.", ".key.").replace(".to_v.", ".value.")
        .replace("attentions.0.to_out.0.", "attentions.0.proj_attn."): value
        for name, value in today.items()
    }  # fmt: skip
    assert set(old) != set(today)
    assert set(convert_old_vae(old)) == set(today) == set(convert_old_vae(today))
