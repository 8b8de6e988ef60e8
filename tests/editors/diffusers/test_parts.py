"""Pipelines from several parts: one file of the original authors' layout, other networks, Redux before FLUX."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from retouch import plugins
from retouch.errors import ConfigError, EditError, WeightsError
from retouch.models import weights
from retouch.models.ldm_keys import UNET, VAE, convert_unet, convert_vae
from retouch.schema import Batch
from safetensors.torch import load_file, save_file

from tests.editors.diffusers.conftest import example, pixels
from tests.helpers import tiny_pipelines
from tests.helpers.golden_set import golden, weights_of
from tests.helpers.tiny_paint_by_example import unet_keywords, vae_keywords

# -- one file --


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return an inpainting pipeline as diffusers' folder, as its configurations alone, and as one original file.

    The networks are the golden set's, with the original authors' names.
    """
    torch.manual_seed(0)
    at = tmp_path_factory.mktemp("sd")
    (unet, unet_entry), (vae, vae_entry) = golden("pbe_unet.safetensors"), golden("pbe_vae.safetensors")
    unet, vae = weights_of(unet, f"model.{UNET}"), weights_of(vae, f"model.{VAE}")
    text, tokenizer = tiny_pipelines.clip_text(hidden=unet_entry["config"]["context_dim"])
    pipe = diffusers.StableDiffusionInpaintPipeline(
        vae=diffusers.AutoencoderKL(**vae_keywords(vae_entry["config"])),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(**unet_keywords(unet_entry["config"])),
        scheduler=tiny_pipelines.ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.unet.load_state_dict(convert_unet(unet))
    pipe.vae.load_state_dict(convert_vae(vae))
    pipe.save_pretrained(at / "folder")
    shutil.copytree(at / "folder", at / "config", ignore=shutil.ignore_patterns("*.safetensors"))
    state = {
        **{UNET + name: value for name, value in unet.items()},
        **{VAE + name: value for name, value in vae.items()},
        **{
            f"cond_stage_model.transformer.text_model.{n.removeprefix('text_model.')}": v
            for n, v in text.state_dict().items()
        },
    }
    save_file({name: value.contiguous() for name, value in state.items()}, at / "model.safetensors")
    return at / "folder", at / "config", at / "model.safetensors"


def edited(addresses: dict[str, Any], **params: Any) -> Any:
    """Return the edits of four rows with a job's weights."""
    found: Any = plugins.find("editors", "diffusers")
    checked = plugins.check_params(found.Params, {"steps": 2, "size": 64, **params}, "params")
    return pixels(found.load(checked, weights.resolve(addresses).files, "cpu").edit_batch(example()))


def test_one_file_edits_as_the_folder_of_the_same_weights(stable_diffusion: tuple[Path, Path, Path]) -> None:
    folder, config, file = map(str, stable_diffusion)
    assert np.array_equal(edited({"checkpoint": file, "config": config}), edited({"model_index": folder}))


def test_of_the_role_config_no_weights_are_read(stable_diffusion: tuple[Path, Path, Path]) -> None:
    folder, _, file = map(str, stable_diffusion)
    read = weights.resolve({"checkpoint": file, "config": folder}).sha256
    assert {"checkpoint", "config", "config/unet/config.json", "config/tokenizer/tokenizer.json"} <= set(read)
    assert not [role for role in read if role.endswith(".safetensors")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{UNET}out.2.weight", r"model\.safetensors lacks weights"),
        (f"{VAE}decoder.conv_in.bias", r"model\.safetensors lacks weights"),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            r"text_encoder lacks 1 weights \(first: .*final",
        ),
    ],
)
def test_a_weight_that_one_file_lacks_is_an_error(
    name: str, message: str, stable_diffusion: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, config, file = stable_diffusion
    state = load_file(file)
    del state[name]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message):
        edited({"checkpoint": str(tmp_path / "model.safetensors"), "config": str(config)})


def test_one_file_needs_its_configurations(stable_diffusion: tuple[Path, Path, Path]) -> None:
    with pytest.raises(WeightsError, match="checkpoint needs role config"):
        edited({"checkpoint": str(stable_diffusion[2])})


# -- other networks --


@pytest.mark.parametrize("layout", ["folder", "diffusers' names", "original names"])
def test_a_role_replaces_a_network(layout: str, stable_diffusion: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder, _, file = stable_diffusion
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    state = {
        name: value + 0.01 for name, value in load_file(base / "unet" / "diffusion_pytorch_model.safetensors").items()
    }
    save_file(state, base / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    other = {
        "folder": folder / "unet",
        "diffusers' names": folder / "unet" / "diffusion_pytorch_model.safetensors",
        "original names": file,
    }[layout]
    replaced = edited({"model_index": str(base), "network.unet": str(other)})
    assert not np.array_equal(replaced, edited({"model_index": str(base)}))
    assert np.array_equal(replaced, edited({"model_index": str(folder)}))


def test_a_network_that_the_pipeline_lacks_is_refused(stable_diffusion: tuple[Path, Path, Path]) -> None:
    folder, _, file = map(str, stable_diffusion)
    with pytest.raises(WeightsError, match=r"has no transformer; leave role network\.transformer out"):
        edited({"model_index": folder, "network.transformer": file})


# -- Redux --


@pytest.fixture(scope="module")
def redux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Redux, as published: without text encoders."""
    torch.manual_seed(0)
    config = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
    )
    folder = tmp_path_factory.mktemp("redux") / "folder"
    diffusers.FluxPriorReduxPipeline(
        image_encoder=transformers.SiglipVisionModel(config),
        feature_extractor=transformers.SiglipImageProcessor(size={"height": 32, "width": 32}),
        image_embedder=diffusers.pipelines.flux.modeling_flux.ReduxImageEncoder(redux_dim=32, txt_in_features=32),
    ).save_pretrained(folder)
    return folder


def with_exemplars(side: int = 32, **more: Any) -> Batch:
    """Return four rows with an exemplar of their own."""
    exemplars = np.random.default_rng(0).integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    return example(exemplar=exemplars, **more)


def test_redux_does_what_diffusers_two_pipelines_do(
    editor: Callable[..., Any], folder: Callable[..., Path], redux: Path
) -> None:
    kind = "flux_fill"
    loaded = editor(kind, {"redux": str(redux / "model_index.json")}, max_sequence_length=512)
    batch = with_exemplars()
    assert batch.exemplar is not None
    pipe = diffusers.FluxFillPipeline.from_pretrained(str(folder(kind)))
    pipe.set_progress_bar_config(disable=True)
    prior = diffusers.FluxPriorReduxPipeline.from_pretrained(
        str(redux),
        **{name: pipe.components[name] for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")},
    )
    with torch.no_grad():
        embeds, pooled = prior(Image.fromarray(batch.exemplar[0]), prompt=batch.prompt[0], return_dict=False)
        text, _, _ = pipe.encode_prompt(batch.prompt[0], None, max_sequence_length=512)
    one = loaded.prompts.arguments([batch.prompt[0]], [""], {"max_sequence_length": 512})
    tokens = loaded._exemplar_tokens(batch.exemplar[0], loaded.params)
    assert torch.equal(torch.cat([one["prompt_embeds"], tokens], dim=1), embeds)
    assert torch.equal(one["pooled_prompt_embeds"], pooled)
    assert tokens.shape[1] == embeds.shape[1] - text.shape[1]


def test_redux_reads_each_rows_own_exemplar(editor: Callable[..., Any], redux: Path) -> None:
    roles = {"redux": str(redux / "model_index.json")}
    loaded = editor("flux_fill", roles)
    assert loaded.prepare_exemplar(np.zeros((90, 40, 3), np.uint8), {}).shape == (32, 32, 3)
    batch = with_exemplars()
    results = pixels(loaded.edit_batch(batch))
    assert batch.exemplar is not None
    other = with_exemplars()
    assert other.exemplar is not None
    other.exemplar[1:] = 255 - other.exemplar[1:]
    changed = pixels(loaded.edit_batch(other))
    assert np.array_equal(changed[0], results[0])
    assert all(not np.array_equal(changed[k], results[k]) for k in (1, 2, 3))
    assert not np.array_equal(pixels(loaded.edit_batch(with_exemplars(params={"exemplar_scale": 0.5}))), results)
    with pytest.raises(EditError, match="Redux needs an exemplar"):
        loaded.edit_batch(example())


def test_redux_is_for_flux(editor: Callable[..., Any], redux: Path) -> None:
    with pytest.raises(WeightsError, match="redux guides FLUX pipelines with a prompt only"):
        editor("sd_inpaint_9ch", {"redux": str(redux / "model_index.json")})


def test_a_checkpoint_is_not_quantized(stable_diffusion: tuple[Path, Path, Path]) -> None:
    _, config, file = map(str, stable_diffusion)
    with pytest.raises(ConfigError, match="role checkpoint is not quantized"):
        edited({"checkpoint": file, "config": config}, quantization={"backend": "torchao"})
