from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from retouch.errors import WeightsError
from retouch.models.adm import build_adm, convert_adm, unconvert_adm
from retouch.models.checkpoint import difference
from retouch.models.ddpm import build_ddpm, convert_ddpm, unconvert_ddpm
from retouch.models.pixel_unet import PixelUNet
from retouch.models.unet import Network, load_unet
from safetensors.torch import save_file

from tests.helpers.golden_set import HOME, adm_config, ddpm_config, golden, key_list, key_lists, weightless, weights_of

pytestmark = pytest.mark.slow

PUBLISHED = {  # key list: image size, learn_sigma, classes
    "keys_diffusionclip_afhq_ffhq.json": (256, True, 0),
    "keys_diffusionclip_celebahq_lsun.json": (256, False, 0),
    "keys_diffusionclip_imagenet.json": (512, True, 1000),
    "keys_guided_256x256_diffusion_uncond.json": (256, True, 0),
    "keys_guided_512x512_diffusion.json": (512, True, 1000),
}


def saved(folder: Path, shapes: Mapping[str, Any]) -> Path:
    path = folder / "some-name.pt"
    torch.save(weightless(shapes), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", key_lists())
def test_every_published_key_finds_its_place_and_no_place_stays_empty(name: str) -> None:
    published = key_list(name)
    state = weightless(published["keys"])
    with torch.device("meta"):
        if "ch_mult" in published["config"]:
            ddpm = ddpm_config(published["config"])
            module, converted = build_ddpm(ddpm), convert_ddpm(state, ddpm)
        else:
            adm = adm_config(published["config"])
            module, converted = build_adm(adm), convert_adm(state, adm)
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert difference(expected, converted) is None
    assert sum(p.numel() for p in module.parameters()) == sum(value.numel() for value in state.values())


@pytest.mark.parametrize("name", key_lists())
def test_a_network_goes_back_to_the_names_and_shapes_of_its_published_file(name: str) -> None:
    published = key_list(name)
    state = weightless(published["keys"])
    if "ch_mult" in published["config"]:
        ddpm = ddpm_config(published["config"])
        back = unconvert_ddpm(convert_ddpm(state, ddpm), ddpm)
    else:
        adm = adm_config(published["config"])
        back = unconvert_adm(convert_adm(state, adm), adm)
    assert {key: list(value.shape) for key, value in back.items()} == published["keys"]


@pytest.mark.parametrize("name", ["adm_uncond.safetensors", "adm_classcond.safetensors", "ddpm_celebahq.safetensors"])
def test_a_network_goes_back_to_its_published_numbers_bit_for_bit(name: str) -> None:
    tensors, entry = golden(name)
    if "ch_mult" in entry["config"]:
        state, ddpm = weights_of(tensors), ddpm_config(entry["config"])
        ours, back = convert_ddpm(state, ddpm), unconvert_ddpm(convert_ddpm(state, ddpm), ddpm)
    else:
        state = weights_of(golden("adm_uncond.safetensors")[0]) | weights_of(tensors)
        adm = adm_config(entry["config"])
        ours, back = convert_adm(state, adm), unconvert_adm(convert_adm(state, adm), adm)
    assert ours.keys() != state.keys()
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back[key], value), key


def test_a_note_next_to_a_published_file_does_not_make_it_a_pixel_unet(tmp_path: Path) -> None:
    path = saved(tmp_path, key_list("keys_diffusionclip_celebahq_lsun.json", HOME)["keys"])
    for note in ({"name": "sketch", "sha256": "0", "last": {"total": 1.0}}, ["sketch"], "unet"):
        path.with_suffix(".json").write_text(json.dumps(note))
        network = load_unet(str(path))
        assert (network.image_size, network.schedule, network.card) == (256, "linear", {})
    path.with_suffix(".json").write_text("{")
    with pytest.raises(WeightsError, match="is not JSON"):
        load_unet(str(path))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_known_by_its_keys_whatever_its_name(tmp_path: Path, name: str) -> None:
    network = load_unet(str(saved(tmp_path, key_list(name, HOME)["keys"])))
    assert (network.image_size, network.learn_sigma, network.num_classes) == PUBLISHED[name]
    assert network.schedule == "linear"
    assert not network.module.training
    assert not any(p.requires_grad for p in network.module.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("change", ["one missing", "one more", "another shape"])
def test_a_file_that_almost_fits_is_refused_in_one_line(tmp_path: Path, name: str, change: str) -> None:
    shapes = dict(key_list(name, HOME)["keys"])
    last = [key for key in shapes if key.endswith(("conv2.bias", "out_layers.3.bias"))][-1]
    if change == "one missing":
        del shapes[last]
    elif change == "one more":
        shapes["encoder.extra"] = [3]
    else:
        shapes[last] = [7]
    path = saved(tmp_path, shapes)
    with pytest.raises(WeightsError) as error:
        load_unet(str(path))
    words = {"one missing": "1 missing", "one more": "1 unexpected", "another shape": "1 of another shape"}
    assert words[change] in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "shapes",
    [
        {"visual.proj": [768, 512], "logit_scale": []},
        {"time_embed.0.weight": [1280, 320], "input_blocks.0.0.weight": [320, 9, 3, 3]},
        {"time_embed.0.weight": [1024, 256], "label_emb.weight": [10, 1024]},
    ],
)
def test_an_unknown_architecture_says_which_are_known(tmp_path: Path, shapes: Mapping[str, Any]) -> None:
    path = saved(tmp_path, shapes)
    with pytest.raises(WeightsError, match="known: the guided-diffusion 256 px UNet") as error:
        load_unet(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        load_unet(str(tmp_path / "none.pt"))


@torch.no_grad()
def test_a_description_next_to_the_file_makes_it_the_pixel_unet(tmp_path: Path) -> None:
    blocks = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    unet = {
        "sample_size": 4, "in_channels": 12, "out_channels": 12, "block_out_channels": [32, 32], **blocks,
    }  # fmt: skip
    config = {
        "image_size": 8, "schedule": "cosine", "prediction": "v", "timesteps": 1000, "fold": 2, "unet": unet,
    }  # fmt: skip
    source = PixelUNet.from_config(config).eval()
    (tmp_path / "unet.json").write_text(json.dumps(config))
    save_file(source.state_dict(), tmp_path / "unet.safetensors")
    network = load_unet(str(tmp_path / "unet.safetensors"))
    assert network == Network(network.module, 8, learn_sigma=False, schedule="cosine", num_classes=0, card=config)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([10, 900])
    assert torch.allclose(network.module(x, t), source(x, t), atol=1e-6)
