"""Folders of Stable Diffusion and SDXL load as diffusers loads them; other folders are refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from retouch.errors import WeightsError
from retouch.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from retouch.models.weights import resolve
from safetensors.torch import load_file, save_file

from tests.helpers import tiny_pipelines

pytestmark = pytest.mark.slow

KINDS = ("sd_text_to_image", "sdxl_text_to_image")
PROMPT = "two red apples"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("folders")
    return {kind: Path(tiny_pipelines.save(kind, root / kind)) for kind in (*KINDS, "sd_inpaint_9ch", "flux_fill")}


def load(folder: Path) -> StableDiffusion:
    return load_stable_diffusion(resolve(str(folder)).files["model_index"])


def changed(folder: Path, copy: Path, file: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Copy a folder with another content of one of its JSON files."""
    shutil.copytree(folder, copy)
    found = json.loads((copy / file).read_text())
    change(found)
    (copy / file).write_text(json.dumps(found))
    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_encoded_as_diffusers_does(folders: dict[str, Path], kind: str) -> None:
    pipe = tiny_pipelines.build(kind)
    with torch.no_grad():
        theirs = pipe.encode_prompt(PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    networks = load(folders[kind])
    text, negative = networks.text(PROMPT), networks.negative("")
    assert torch.equal(text.context, theirs[0][0])
    assert torch.equal(negative.context, theirs[1][0])
    if kind.startswith("sdxl"):
        assert text.pooled is not None
        assert negative.pooled is not None
        torch.testing.assert_close(text.pooled, theirs[2][0])
        assert torch.equal(negative.pooled, theirs[3][0])
        assert not negative.context.any()
        assert networks.negative("blurred").context.any()


def test_names_of_published_text_encoders_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders[KINDS[0]], folder)
    file = folder / "text_encoder" / "model.safetensors"
    state = {f"text_model.{name}": value for name, value in load_file(file).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(state, file, {"format": "pt"})
    assert torch.equal(load(folder).text(PROMPT).context, load(folders[KINDS[0]]).text(PROMPT).context)


def test_loading_draws_no_bar(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    load(folders[KINDS[1]])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_tokens_that_the_encoder_does_not_read_are_counted(folders: dict[str, Path]) -> None:
    networks = load(folders[KINDS[0]])
    assert networks.text("a" * 30).cut == 0  # one token per letter, start and end: 32
    assert networks.text("a" * 35).cut == 5
    assert torch.equal(networks.text("a" * 40).context, networks.text("a" * 50).context)


@pytest.mark.parametrize(
    "config",
    [{}, {"timestep_spacing": "trailing"}, {"set_alpha_to_one": True}, {"_class_name": "PNDMScheduler"}],
)
def test_the_timesteps_are_those_of_ddim_on_the_folders_schedule(
    folders: dict[str, Path], tmp_path: Path, config: dict[str, Any]
) -> None:
    file = "scheduler/scheduler_config.json"
    networks = load(changed(folders[KINDS[0]], tmp_path / "copy", file, lambda found: found.update(config)))
    theirs = diffusers.DDIMScheduler.from_pretrained(folders[KINDS[0]], subfolder="scheduler", **config)
    for steps in (1, 7, 50):
        theirs.set_timesteps(steps)
        assert networks.timesteps(steps)[:-1] == theirs.timesteps.tolist()
    assert networks.timesteps(4)[-1] == (-1 if "set_alpha_to_one" in config else 0)
    np.testing.assert_allclose(np.cumprod(1 - networks.betas), theirs.alphas_cumprod.numpy(), rtol=1e-4)


def test_latents_are_those_of_the_autoencoder(folders: dict[str, Path]) -> None:
    vae = tiny_pipelines.build(KINDS[0]).vae
    networks = load(folders[KINDS[0]])
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(image).latent_dist
        latent = posterior.mean * vae.config.scaling_factor
        assert torch.equal(networks.encode(image), latent)
        noise = torch.ones_like(latent)
        expected = (posterior.mean + posterior.std) * vae.config.scaling_factor
        torch.testing.assert_close(networks.encode(image, noise), expected)
        assert torch.equal(networks.decode(latent), vae.decode(latent / vae.config.scaling_factor).sample)
    assert (networks.image_size, networks.latent_size) == (64, 32)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("sd_inpaint_9ch", "is a StableDiffusionInpaintPipeline whose UNet takes 9 channels, not 4"),
        ("flux_fill", "is a FluxFillPipeline, with nothing for unet; Stable Diffusion or SDXL"),
    ],
)
def test_a_folder_of_another_kind_is_refused_in_one_line(folders: dict[str, Path], kind: str, line: str) -> None:
    with pytest.raises(WeightsError, match=line) as caught:
        load(folders[kind])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "change", "line"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type 'sample'; epsilon or"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "wavy"}, "describes no schedule: wavy"),
        ("scheduler/scheduler_config.json", {"beta_schedule": None}, "describes no schedule"),
        ("unet/config.json", {"sample_size": [32, 48]}, r"sample_size \[32, 48\]; a number is expected"),
        ("unet/config.json", {"time_cond_proj_dim": 8}, r"reads its guidance scale \(LCM\)"),
        ("vae/config.json", {"latents_mean": [0, 0, 0, 0]}, "normalises its latents"),
        ("unet/config.json", {"block_out_channels": [16, 64]}, "unet cannot be read"),
        ("model_index.json", {"text_encoder": [None, None]}, "with nothing for text_encoder"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "with AutoencoderTiny for vae"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_in_one_line(
    folders: dict[str, Path], tmp_path: Path, file: str, change: dict[str, Any], line: str
) -> None:
    folder = changed(folders[KINDS[0]], tmp_path / "copy", file, lambda found: found.update(change))
    with pytest.raises(WeightsError, match=line) as caught:
        load_stable_diffusion(str(folder / "model_index.json"))
    assert "\n" not in str(caught.value)


def test_a_flow_schedule_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders[KINDS[0]], folder)
    shutil.copytree(folders["flux_fill"] / "scheduler", folder / "scheduler", dirs_exist_ok=True)
    with pytest.raises(WeightsError, match=r"has no betas \(FlowMatchEulerDiscreteScheduler\)"):
        load(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_weight_that_is_missing_is_an_error_and_not_a_random_number(
    folders: dict[str, Path], tmp_path: Path, part: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders[KINDS[0]], folder)
    (file,) = (folder / part).glob("*.safetensors")
    state = load_file(file)
    gone = sorted(state)[0]
    del state[gone]
    save_file(state, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=f"{part} lacks 1 weights"):
        load(folder)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=f"{part} cannot be read"):
        load(folder)


def test_a_folder_without_vocabulary_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders[KINDS[0]], folder)
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(WeightsError, match="has no file for tokenizer; copy the whole folder"):
        load(folder)
