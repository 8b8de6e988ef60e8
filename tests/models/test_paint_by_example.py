"""Paint by Example's networks load whole from every form that they were published in, or say in one line why not."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from retouch.errors import WeightsError
from retouch.models import weights
from retouch.models.exemplar_encoder import convert_ldm_encoder
from retouch.models.ldm_keys import UNET, VAE, convert_unet, convert_vae
from retouch.models.paint_by_example import (
    BUFFERS,
    OWN,
    PaintByExampleConfig,
    PaintByExampleNetworks,
    build_networks,
    load_networks,
    save_networks,
)
from safetensors.torch import save_file
from torch import Tensor

from tests.helpers.golden_set import key_list, weightless
from tests.helpers.tiny_paint_by_example import TINY, tiny

pytestmark = pytest.mark.slow

KEYS = "keys_pbe_model_ckpt.json"

# As many levels, blocks and layers as the published networks, and wider where they are: every published name is there.
NARROW = PaintByExampleConfig(
    unet={
        "sample_size": 8,
        "in_channels": 9,
        "block_out_channels": (32, 64, 96, 96),
        "cross_attention_dim": 24,
        "attention_head_dim": 2,
    },
    vae={
        "block_out_channels": (32, 64, 96, 96),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 64,
        "scaling_factor": 0.5,
    },
    vision={
        "hidden_size": 32,
        "num_hidden_layers": 24,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 14,
    },
    context_dim=24,
)


def same(a: PaintByExampleNetworks, b: PaintByExampleNetworks) -> bool:
    """Whether all weights are equal."""
    pairs = [(module.state_dict(), b.parts()[role].state_dict()) for role, module in a.parts().items()]
    return all(torch.equal(value, theirs[name]) for ours, theirs in pairs for name, value in ours.items())


def published_state(networks: PaintByExampleNetworks) -> dict[str, Tensor]:
    """The networks' weights under the names of ``model.ckpt``, with the buffers that stand there too."""
    listed = key_list(KEYS)["keys"]
    state: dict[str, Tensor] = {name: torch.zeros(shape) for name, shape in listed.items() if name in BUFFERS}
    for prefix, role, convert in (
        (UNET, "exemplar_unet", convert_unet),
        (VAE, "exemplar_vae", convert_vae),
        ("", "exemplar_encoder", convert_ldm_encoder),
    ):
        names = [name for name in listed if name.startswith(prefix) and name not in state]
        marks = {
            name.removeprefix(prefix): torch.full((3, *[1] * (len(listed[name]) - 1)), i)
            for i, name in enumerate(names)
        }
        ours: dict[int, list[Tensor]] = {}
        weights_of_part = networks.parts()[role].state_dict()
        for name, mark in convert(marks).items():
            ours.setdefault(int(mark.flatten()[0]), []).append(weights_of_part[name])
        for i, name in enumerate(names):
            value = torch.cat(ours[i]) if i in ours else torch.arange(5)[None]  # position_ids
            state[name] = value[..., None, None] if len(listed[name]) == value.ndim + 2 else value
    return state


@pytest.fixture(scope="module")
def narrow() -> tuple[PaintByExampleNetworks, dict[str, Tensor]]:
    """Networks of the published depth, and their state under the published names."""
    networks = tiny(1, NARROW)
    return networks, published_state(networks)


def saved_checkpoint(folder: Path, state: Mapping[str, Tensor], **others: Any) -> str:
    """A ``model.ckpt`` with the card that says how narrow it is."""
    folder.mkdir(exist_ok=True)
    torch.save({"state_dict": dict(state), "epoch": 39, **others}, folder / "model.ckpt")
    (folder / "model.json").write_text(json.dumps(dataclasses.asdict(NARROW)))
    return str(folder / "model.ckpt")


def test_every_published_name_and_shape_finds_its_place(tmp_path: Path) -> None:
    """The whole key list at the published sizes, without a gigabyte: zeros that are one number."""
    listed = key_list(KEYS)
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": weightless(listed["keys"]), "epoch": 39}, path)
    networks = load_networks({"checkpoint": str(path)})
    counts = {role: sum(p.numel() for p in module.parameters()) for role, module in networks.parts().items()}
    assert counts == {"exemplar_unet": 859_535_364, "exemplar_vae": 83_653_863, "exemplar_encoder": 366_950_912}
    assert (networks.image_size, networks.factor, networks.reference_size) == (512, 8, 224)
    assert networks.scaling_factor == listed["config"]["scale_factor"]


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> type:
    """A class that pickles under the name of one which is not installed here, importable for the test alone."""
    made = type(name, (), {"__module__": module})
    parts = module.split(".")
    for package in (".".join(parts[: i + 1]) for i in range(len(parts))):
        if package not in sys.modules:
            monkeypatch.setitem(sys.modules, package, ModuleType(package))
    setattr(sys.modules[module], name, made)
    return made


def test_the_lightning_checkpoint_loads_past_what_lightning_put_next_to_the_weights(
    tmp_path: Path, narrow: tuple[PaintByExampleNetworks, dict[str, Tensor]]
) -> None:
    networks, state = narrow
    with pytest.MonkeyPatch.context() as monkeypatch:
        callback = stand_in(monkeypatch, "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
        attributes = stand_in(monkeypatch, "pytorch_lightning.utilities.parsing", "AttributeDict")
        config = stand_in(monkeypatch, "omegaconf.dictconfig", "DictConfig")()
        config.__dict__["_content"] = defaultdict(dict, a=1)
        hyperparameters = attributes()
        hyperparameters.__dict__["lr"] = 1e-5
        others = {
            "callbacks": {callback: {"best_model_score": torch.tensor(0.1)}},
            "hyper_parameters": [config, hyperparameters],
        }
        path = saved_checkpoint(tmp_path, state, **others)
    for role in ("checkpoint", "unet"):
        loaded = load_networks({role: path})
        assert same(loaded, networks)
    assert not any(p.requires_grad for module in loaded.parts().values() for p in module.parameters())
    assert not any(b.is_meta for module in loaded.parts().values() for b in module.buffers())
    assert not any(module.training for module in loaded.parts().values())


def saved_folder(folder: Path, networks: PaintByExampleNetworks, *, old: bool) -> str:
    """A folder as diffusers wrote it in 2022 (pickles, its old names), or as one would today."""
    config = networks.config
    unet, vae, encoder = networks.unet.state_dict(), networks.vae.state_dict(), networks.encoder.state_dict()
    if old:
        for ours, theirs in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            vae = {name.replace(f".{ours}.", f".{theirs}."): value for name, value in vae.items()}
    encoder = {re.sub(r"^model\.", "model.vision_model.", name): value for name, value in encoder.items()}
    encoder["model.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    parts: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
        "unet": (unet, dict(config.unet), "diffusion_pytorch_model"),
        "vae": (vae, dict(config.vae), "diffusion_pytorch_model"),
        "image_encoder": (encoder, {**config.vision, "projection_dim": config.context_dim}, "model"),
    }
    for part, (state, card, stem) in parts.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(
            json.dumps({"_class_name": part, "_diffusers_version": "0.9.0", **card})
        )
        if old:
            torch.save(state, folder / part / f"{'pytorch_' if stem == 'model' else ''}{stem}.bin")
        else:
            save_file(
                {name: value.contiguous() for name, value in state.items()}, folder / part / f"{stem}.safetensors"
            )
    for name, card in {
        "scheduler/scheduler_config.json": {"beta_schedule": "scaled_linear", "steps_offset": 1},
        "feature_extractor/preprocessor_config.json": {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
        "model_index.json": {
            "_class_name": "PaintByExamplePipeline",
            "image_encoder": ["paint_by_example", "PaintByExampleImageEncoder"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(card))
    return str(folder)


@pytest.mark.parametrize("old", [True, False])
def test_the_diffusers_folder_loads_though_diffusers_itself_refuses_it(tmp_path: Path, old: bool) -> None:
    networks = tiny(2)
    loaded = load_networks(weights.resolve(saved_folder(tmp_path / "published", networks, old=old)).files)
    assert same(loaded, networks)
    assert loaded.schedule == "scaled_linear"
    assert (loaded.mean, loaded.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    assert (loaded.image_size, loaded.reference_size, loaded.scaling_factor) == (16, 28, 0.5)


def test_our_own_form_brings_back_what_was_saved(tmp_path: Path) -> None:
    networks = tiny(3, dataclasses.replace(TINY, mapper_layers=3, mean=(0.1, 0.2, 0.3), schedule="linear"))
    names = save_networks(networks, tmp_path)
    (tmp_path / "family.json").write_text(json.dumps(names))
    loaded = load_networks(weights.resolve(str(tmp_path)).files)
    assert same(loaded, networks)
    assert (loaded.mean, loaded.schedule, loaded.config.mapper_layers) == ((0.1, 0.2, 0.3), "linear", 3)
    pixels = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    # Not bit for bit: a file's tensors lie at other alignments, for which kernels round another way.
    torch.testing.assert_close(loaded.encoder(pixels), networks.encoder(pixels))


class Exploit:
    """Runs a command when it is unpickled by a reader that runs what it reads."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploited",)


@pytest.mark.slow
def test_files_that_are_wrong_are_refused_in_one_line(
    tmp_path: Path, narrow: tuple[PaintByExampleNetworks, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, state = narrow
    less = {name: value for name, value in state.items() if name != "learnable_vector"}
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    whole = Path(saved_checkpoint(tmp_path / "whole", state)).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    own = {role: str(tmp_path / "own" / name) for role, name in save_networks(tiny(), tmp_path / "own").items()}
    (tmp_path / "bare.safetensors").write_bytes(Path(own["exemplar_vae"]).read_bytes())
    holed = Path(saved_folder(tmp_path / "holed", tiny(), old=True))
    (holed / "vae" / "diffusion_pytorch_model.bin").unlink()
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "model_index.json").write_text('{"unet": []}')
    odd = tmp_path / "odd"
    save_networks(tiny(), odd)
    (odd / "exemplar_unet.json").write_text('{"sample_size": 8, "down_block_types": ["NoSuchBlock"], "in_channels": 9}')
    for given, line in [
        ({}, "needs weights exemplar_vae, exemplar_unet, exemplar_encoder, or checkpoint .* names none"),
        ({"exemplar_vae": own["exemplar_vae"]}, "needs weights for exemplar_unet, exemplar_encoder too"),
        ({**own, "exemplar_vae": str(tmp_path / "bare.safetensors")}, r"bare\.json cannot be read"),
        (
            {**own, "exemplar_vae": own["exemplar_encoder"]},
            "exemplar_encoder.safetensors is not Paint by Example's vae",
        ),
        ({role: str(odd / Path(name).name) for role, name in own.items()}, "describes no Paint by Example"),
        (
            {"checkpoint": str(tmp_path / "other.ckpt")},
            r"other\.ckpt is no Paint by Example checkpoint \(1 tensors, first: a",
        ),
        ({"checkpoint": str(tmp_path / "cut.ckpt")}, "is truncated or no checkpoint"),
        ({"checkpoint": str(tmp_path / "none.ckpt")}, "no checkpoint at"),
        ({"checkpoint": saved_checkpoint(tmp_path / "less", less)}, r"1 missing \(first: uncond_vector\)"),
        ({"checkpoint": saved_checkpoint(tmp_path / "more", {**state, "more": torch.zeros(1)})}, "unexpected .*more"),
        ({"checkpoint": saved_checkpoint(tmp_path / "bad", state, x=Exploit())}, "its pickle calls posix.system"),
        ({"model_index": str(holed / "model_index.json")}, "vae has no weights"),
        ({"model_index": str(tmp_path / "index" / "model_index.json")}, "names no vae, image_encoder"),
    ]:
        with pytest.raises(WeightsError, match=line) as caught:
            load_networks(given)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploited").exists()


def test_averages_of_the_training_are_left_out(
    tmp_path: Path, narrow: tuple[PaintByExampleNetworks, dict[str, Tensor]]
) -> None:
    networks, state = narrow
    path = saved_checkpoint(tmp_path, {**state, "model_ema.decay": torch.zeros(())})
    assert same(load_networks({"checkpoint": path}), networks)


def test_networks_are_described_without_being_built() -> None:
    with torch.device("meta"):
        networks = build_networks(TINY)
    assert all(p.is_meta for module in networks.parts().values() for p in module.parameters())
    assert set(networks.parts()) == set(OWN)
