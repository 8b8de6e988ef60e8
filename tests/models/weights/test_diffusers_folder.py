"""Sharded and variant weights of a diffusers folder load from everywhere, and nothing else is fetched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from retouch import storage
from retouch.errors import WeightsError
from retouch.models import weights
from retouch.models.checkpoint import read_state_dict
from retouch.models.paint_by_example import weights_file
from retouch.models.weights.diffusers_folder import select
from transformers import CLIPTextConfig, CLIPTextModel

from tests.models.weights.test_weights import COMMIT, hub, in_a_process, repository

SHARD = "40KB"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder in shards, in float32 and as the variant fp16, with what published folders also hold."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    block = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    unet: Any = UNet2DModel(
        sample_size=8, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **block
    )
    text: Any = CLIPTextModel(
        CLIPTextConfig(vocab_size=500, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for part, module in (("unet", unet), ("text_encoder", text)):
        module.save_pretrained(folder / part, max_shard_size=SHARD)
        half = tmp_path_factory.mktemp("half")  # apart: transformers removes the shards of an earlier call
        module.half().save_pretrained(half, max_shard_size=SHARD, variant="fp16")
        for path in half.iterdir():
            shutil.copy(path, folder / part / path.name)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "T5Tokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in ("tokenizer/spiece.model", "tokenizer/chat_template.jinja", "tokenizer/tokenizer_config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    for name in ("original.safetensors", "unet/diffusion_pytorch_model.bin", "text_encoder/model.onnx"):
        (folder / name).write_bytes(b"not loaded")
    assert len(list(folder.glob("*/*fp16-*-of-*"))) > 3
    assert len(list(folder.glob("*/*.index*.json"))) == 4
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Content by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copied(folder: Path, place: str) -> str:
    """Put a folder on any storage."""
    for name, data in files_of(folder).items():
        storage.write_bytes(storage.join(place, name), data)
    return place


def loaded(folder: Path, variant: str | None = None) -> dict[str, torch.Tensor]:
    """The weights as diffusers and transformers read them from a folder."""
    unet: Any = UNet2DModel.from_pretrained(folder, subfolder="unet", variant=variant)
    text: Any = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", variant=variant, dtype=torch.float32)
    return {**unet.state_dict(), **text.state_dict()}


def check(index: str, published: Path, variant: str | None) -> None:
    """The folder of this index gives the weights of the variant to a loader that asks for none, and the cards."""
    found, expected = loaded(Path(index).parent), loaded(published, variant)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (Path(index).parent / "tokenizer" / "spiece.model").read_bytes() == b"tokenizer/spiece.model"
    assert (Path(index).parent / "tokenizer" / "chat_template.jinja").is_file()


def test_shards_and_a_variant_load_from_any_storage(place: str, published: Path, tmp_path: Path) -> None:
    folder = copied(published, storage.join(place, "model"))
    plain, half = weights.resolve(folder), weights.resolve(f"{folder}#variant=fp16")
    check(plain.files["model_index"], published, None)
    check(half.files["model_index"], published, "fp16")
    assert weights.resolve({"model_index": f"{folder}#variant=fp16"}) == half
    assert plain.digest != half.digest
    for found, other in ((plain, "fp16"), (half, ".bin")):  # what no loader asks for was not fetched
        names = [path.name for path in Path(found.files["model_index"]).parent.rglob("*")]
        assert storage.local_path(folder) == Path(found.files["model_index"]).parent or not [
            name for name in names if other in name or name in ("original.safetensors", "model.onnx")
        ]
    copy = copied(published, str(tmp_path / "copy"))
    assert weights.resolve(copy).digest == plain.digest
    assert weights.resolve(f"{copy}#variant=fp16").digest == half.digest


def test_shards_and_a_variant_load_from_the_hub(published: Path, tmp_path: Path) -> None:
    code = (
        "import json\nfrom retouch.models.weights import resolve\n"
        "found = [resolve(f'hf://me/net@v1{more}') for more in ('', '#variant=fp16')]\n"
        "print(json.dumps([[one.files['model_index'], one.digest] for one in found]))\n"
    )
    with hub(repository(files_of(published), "v1")) as (url, asked):
        plain, half = json.loads(in_a_process(code, url, tmp_path))
        check(plain[0], published, None)
        check(half[0], published, "fp16")
        fetched = {path.removeprefix(f"/me/net/resolve/{COMMIT}/") for path in asked if "/resolve/" in path}
        assert fetched.isdisjoint(
            {"original.safetensors", "unet/diffusion_pytorch_model.bin", "text_encoder/model.onnx"}
        )
    assert plain[1] == weights.resolve(str(published)).digest
    assert half[1] == weights.resolve(f"{published}#variant=fp16").digest


def test_our_own_reader_takes_shards_too(published: Path) -> None:
    unet: Any = UNet2DModel.from_pretrained(published, subfolder="unet")
    state = read_state_dict(str(published / "unet" / "diffusion_pytorch_model.safetensors.index.json"))
    assert state.keys() == unet.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in unet.state_dict().items())
    assert weights_file(published / "unet").endswith("diffusion_pytorch_model.safetensors.index.json")


def test_a_missing_shard_or_index_is_named_before_anything_loads(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path / "holed")
    shard = sorted((tmp_path / "holed" / "unet").glob("diffusion_pytorch_model-*"))[1]
    shard.unlink()
    with pytest.raises(WeightsError, match=f"names {shard.name}, which is missing; copy the whole folder"):
        weights.resolve(str(tmp_path / "holed"))
    shutil.copytree(published, tmp_path / "bare")
    (tmp_path / "bare" / "text_encoder" / "model.safetensors.index.json").unlink()
    with pytest.raises(WeightsError, match=r"text_encoder has shards without their safetensors\.index\.json"):
        weights.resolve(str(tmp_path / "bare"))
    (tmp_path / "bare" / "text_encoder" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
    with pytest.raises(WeightsError, match="names shards outside its folder"):
        weights.resolve(str(tmp_path / "bare"))


def test_a_variant_that_no_component_has_names_those_that_there_are(published: Path) -> None:
    with pytest.raises(WeightsError, match=r"no component has the variant 'bf16'; it has: fp16"):
        weights.resolve(f"{published}#variant=bf16")
    with pytest.raises(WeightsError, match="a variant is of a diffusers folder; name the file itself"):
        weights.resolve({"unet": f"{published}/original.safetensors#variant=fp16"})


def named(*parts: str) -> bytes:
    """A model_index.json."""
    return json.dumps({"_class_name": "X", **{part: ["diffusers", "X"] for part in parts}}).encode()


@pytest.mark.parametrize(
    ("files", "variant", "expected"),
    [
        (["model.bin", "model.safetensors"], None, {"model.safetensors"}),
        (["model.bin", "model.fp16.safetensors"], None, {"model.bin"}),  # as published: nothing is converted unasked
        (["model.bin", "model.fp16.safetensors"], "fp16", {"model.fp16.safetensors"}),
        (["model.fp16.bin", "model.fp16.safetensors"], None, {"model.fp16.safetensors"}),  # the only variant
        (["model-00001-of-00001.fp16.bin", "model.bin.fp16.index.json"], "fp16", None),  # older names
        (["model.safetensors", "sd.ckpt", "weights.pb", "rust_model.ot", "a.onnx.json"], None, {"model.safetensors"}),
    ],
)
def test_one_format_and_one_variant_are_taken(files: list[str], variant: str | None, expected: set[str] | None) -> None:
    names = ["model_index.json", "a/config.json", *(f"a/{file}" for file in files)]
    found = select(names, named("a"), "folder", variant)
    assert set(found) - {"model_index.json", "a/config.json"} == {f"a/{file}" for file in expected or files}


def test_a_component_without_the_variant_gives_its_plain_weights() -> None:
    names = ["a/config.json", "b/config.json", "a/model.safetensors", "b/model.safetensors", "b/model.fp16.safetensors"]
    found = select(names, named("a", "b"), "folder", "fp16")
    assert found["a/model.safetensors"] == "a/model.safetensors"
    assert found["b/model.fp16.safetensors"] == "b/model.safetensors"


def test_two_variants_without_plain_weights_are_a_question() -> None:
    names = ["a/config.json", "a/model.fp16.safetensors", "a/model.bf16.safetensors"]
    with pytest.raises(WeightsError, match=r"has only the variants bf16, fp16; name one: \.\.\.#variant=bf16"):
        select(names, named("a"), "folder")


@pytest.mark.parametrize("part", ["unet", "tokenizer", "scheduler"])
def test_a_component_that_is_missing_is_named_before_a_loader_makes_one_up(
    part: str, published: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(published, folder)
    shutil.rmtree(folder / part)
    with pytest.raises(WeightsError, match=f"has no file for {part}; copy the whole folder"):
        weights.resolve(str(folder))


def test_a_tokenizer_without_vocabulary_is_named(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(published, folder)
    (folder / "tokenizer" / "spiece.model").unlink()
    with pytest.raises(WeightsError, match="has no vocabulary for tokenizer; copy the whole folder"):
        weights.resolve(str(folder))


def test_a_network_without_weights_is_named(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(published, folder, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin", "original*"))
    with pytest.raises(WeightsError, match="has no weights for unet; copy the whole folder"):
        weights.resolve(str(folder))
