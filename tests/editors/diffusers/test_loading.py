"""What weights and params become: tasks, schedulers, LoRAs, ControlNets, caches; and what is refused at load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from retouch import plugins
from retouch.editors.diffusers.loading import SCHEDULERS
from retouch.errors import ConfigError, EditError, WeightsError
from retouch.schema import Batch
from safetensors.torch import load_file, save_file

from tests.editors.diffusers.conftest import example, pixels
from tests.helpers import tiny_pipelines

KARRAS = sorted(set(SCHEDULERS) - {"flow_euler"})


def index_of(folder: Path) -> dict[str, str]:
    return {"model_index": str(folder / "model_index.json")}


@pytest.mark.parametrize("name", KARRAS)
def test_a_scheduler_by_name_keeps_rows_apart(name: str, editor: Callable[..., Any]) -> None:
    loaded = editor("sd_inpaint_4ch", scheduler=name, steps=6)
    assert type(loaded.loaded.pipe.scheduler).__name__ == SCHEDULERS[name]
    results = pixels(loaded.edit_batch(example()))
    order = [3, 0, 2, 1]
    batch = example()
    prompts, seeds = ([values[k] for k in order] for values in (batch.prompt, batch.seed))
    turned = loaded.edit_batch(Batch(batch.image[order], batch.mask[order], prompts, seeds))
    assert np.array_equal(pixels(turned), results[order])


def test_a_scheduler_takes_diffusers_settings(editor: Callable[..., Any]) -> None:
    loaded = editor("sd_inpaint_4ch", scheduler={"name": "dpm++", "use_karras_sigmas": True})
    assert loaded.loaded.pipe.scheduler.config.use_karras_sigmas is True


@pytest.mark.parametrize(
    ("kind", "scheduler", "message"),
    [
        ("sd_inpaint_4ch", "unpc", r"scheduler 'unpc' is not known; did you mean unipc\?; known: ddim"),
        ("sd_inpaint_4ch", {"name": "unipc", "karras": True}, "scheduler.karras: unknown key"),
        ("sd_inpaint_4ch", "flow_euler", "scheduler 'flow_euler' does not fit DDIMScheduler; fitting: ddim"),
        ("flux_inpaint", "ddim", "'ddim' does not fit FlowMatchEulerDiscreteScheduler"),
        ("flux_inpaint", {"name": "flow_euler", "stochastic_sampling": True}, "draws noise that no seed controls"),
        ("flux_inpaint", "FlowMatchLCMScheduler", "draws noise that no seed controls|does not fit"),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused(
    kind: str, scheduler: Any, message: str, editor: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError, match=message):
        editor(kind, scheduler=scheduler)


def test_text_to_image_weights_inpaint(editor: Callable[..., Any]) -> None:
    assert editor("sd_text_to_image").loaded.name == "StableDiffusionInpaintPipeline"
    assert editor("sdxl_text_to_image").loaded.name == "StableDiffusionXLInpaintPipeline"


def test_inpainting_weights_edit_whole_images_if_the_task_says_so(editor: Callable[..., Any]) -> None:
    loaded = editor("sd_inpaint_4ch", task="edit", strength=0.5)
    assert loaded.loaded.name == "StableDiffusionImg2ImgPipeline"
    assert loaded.loaded.mask_argument is None


def test_the_class_may_be_named(editor: Callable[..., Any]) -> None:
    loaded = editor("flux_inpaint", pipeline="FluxKontextPipeline")
    assert loaded.loaded.name == "FluxKontextPipeline"
    with pytest.raises(WeightsError, match=r"needs the pipeline FluxFilPipeline.*did you mean FluxFillPipeline"):
        editor("flux_inpaint", pipeline="FluxFilPipeline")


def test_code_of_a_repository_is_not_run(editor: Callable[..., Any], tmp_path: Path) -> None:
    tiny_pipelines.save("sd_inpaint_9ch", tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "pipeline.py").write_text("raise SystemExit('run')")
    for name in (["pipeline", "MyPipeline"], "MyOwnPipeline"):
        (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
        with pytest.raises(WeightsError, match=r"names code of its repository|needs the pipeline MyOwnPipeline"):
            editor("sd_inpaint_9ch", index_of(tmp_path))
    component = {**index, "unet": ["my_unet", "MyUNet"]}
    (tmp_path / "unet" / "my_unet.py").write_text("raise SystemExit('run')")
    (tmp_path / "model_index.json").write_text(json.dumps(component))
    with pytest.raises(WeightsError, match="does not load"):
        editor("sd_inpaint_9ch", index_of(tmp_path))


def test_paint_by_example_has_its_own_editor(editor: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "PaintByExamplePipeline"}))
    with pytest.raises(WeightsError, match=r"take editor\.name: paint_by_example"):
        editor("sd_inpaint_9ch", index_of(tmp_path))


def test_weights_that_are_no_folder_say_what_is_needed() -> None:
    found: Any = plugins.find("editors", "diffusers")
    with pytest.raises(WeightsError, match=r"needs a folder with model_index\.json"):
        found.load(found.Params(), {"unet": "a.safetensors"}, "cpu")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"true_cfg_scale": 2.0}, "StableDiffusionInpaintPipeline has no argument true_cfg_scale"),
        ({"call": {"guidance_rescal": 0.7}}, "has no argument guidance_rescal"),
        ({"call": {"prompt": "a cat"}}, "call.prompt is given by the editor"),
        ({"call": {"strength": 0.5}}, "set params.strength"),
        ({"guidance": 3.0}, "params.guidance: unknown key"),
        ({"strength": 0.0}, "strength is 0.0"),
        ({"steps": 0}, "steps is 0"),
        ({"scheduler": {"use_karras_sigmas": True}}, "scheduler has no name"),
        ({"quantization": {"components": ["unet"]}}, "quantization has no backend"),
        ({"lora_scale": {"style": 0.5}}, "lora_scale names style; the weights have: no lora"),
        ({"control_scale": 0.5}, "control_scale is set and the weights have no role controlnet"),
        ({"exemplar_scale": 0.5}, "exemplar_scale is set and the weights have no role ip_adapter"),
        ({"attention": "sagee"}, "attention sagee"),
        ({"cache": {"name": "teacache"}}, "cache 'teacache' is not known"),
        ({"cache": {"name": "magcache"}}, "has no network with step caches"),
    ],
)
def test_a_wrong_param_is_one_line(params: dict[str, Any], message: str, editor: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        editor("sd_inpaint_9ch", **params)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["precision", "scheduler", "size", "compile"])
def test_a_row_cannot_change_what_is_settled_at_load(name: str, editor: Callable[..., Any]) -> None:
    value = {"precision": "bfloat16", "scheduler": "ddim", "size": 32, "compile": "whole"}[name]
    with pytest.raises(ConfigError, match=f"{name} is settled when the networks are loaded"):
        editor("sd_inpaint_9ch").edit_batch(example(params={name: value}))


@pytest.mark.parametrize("part", ["unet", "text_encoder_2", "vae"])
def test_a_weight_that_is_missing_is_an_error_and_not_a_random_number(
    part: str, editor: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder("sdxl_inpaint_9ch"), copy)
    (file,) = (copy / part).glob("*.safetensors")
    state = load_file(file)
    del state[sorted(state)[0]]
    save_file(state, file, {"format": "pt"})
    with pytest.raises(WeightsError, match=f"{part} lacks 1 weights"):
        editor("sdxl_inpaint_9ch", index_of(copy))


# -- LoRAs --


def lora_file(path: Path, kind: str = "sd_inpaint_9ch", part: str = "unet", seed: int = 0) -> str:
    """Write random LoRA weights for a tiny pipeline. Return the path."""
    from peft import LoraConfig, get_peft_model_state_dict

    pipe = tiny_pipelines.build(kind)
    network = getattr(pipe, part)
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    generator = torch.Generator().manual_seed(seed)
    state = {
        f"{part}.{name}": torch.randn(value.shape, generator=generator).contiguous()
        for name, value in get_peft_model_state_dict(network).items()
    }
    save_file(state, str(path))
    return str(path)


def test_loras_act_by_their_scale_and_rows_may_change_it(editor: Callable[..., Any], tmp_path: Path) -> None:
    plain = pixels(editor("sd_inpaint_9ch").edit_batch(example()))
    style, light = lora_file(tmp_path / "style.safetensors"), lora_file(tmp_path / "light.safetensors", seed=1)
    loaded = editor("sd_inpaint_9ch", {"lora.style": style, "lora.light": light})
    both = pixels(loaded.edit_batch(example()))
    one = pixels(loaded.edit_batch(example(params={"lora_scale": {"light": 0.0}})))
    none = pixels(loaded.edit_batch(example(params={"lora_scale": 0.0})))
    assert not np.array_equal(both, plain)
    assert not np.array_equal(one, both)
    assert np.array_equal(none, plain)
    assert np.array_equal(pixels(loaded.edit_batch(example())), both)  # a row's scale does not stay
    alone = editor("sd_inpaint_9ch", {"lora": style})
    assert np.array_equal(pixels(alone.edit_batch(example())), one)


def test_a_lora_of_another_model_is_refused(editor: Callable[..., Any], tmp_path: Path) -> None:
    other = lora_file(tmp_path / "flux.safetensors", "flux_fill", "transformer")
    with pytest.raises(WeightsError, match=r"lora .*flux\.safetensors"):
        editor("sd_inpaint_9ch", {"lora": other})


def test_a_missing_package_is_named_with_its_extra(
    editor: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = lora_file(tmp_path / "style.safetensors")
    monkeypatch.setattr("diffusers.loaders.lora_base.USE_PEFT_BACKEND", False)
    with pytest.raises(WeightsError, match=r"needs the package peft; install retouch\[diffusers\]"):
        editor("sd_inpaint_9ch", {"lora": style})


# -- ControlNets --


def test_a_controlnet_joins_text_to_image_weights(
    editor: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path
) -> None:
    control = folder("sd_controlnet_inpaint") / "controlnet" / "config.json"
    loaded = editor("sd_text_to_image", {"controlnet": str(control)}, control_scale=1.0)
    assert loaded.loaded.name == "StableDiffusionControlNetInpaintPipeline"
    batch = example()
    with pytest.raises(EditError, match="give the manifest a control column"):
        loaded.edit_batch(batch)
    one = pixels(loaded.edit_batch(example(control=batch.image)))
    other = pixels(loaded.edit_batch(example(control=255 - batch.image)))
    assert not np.array_equal(one, other)


# -- exemplars --


def ip_adapter_file(path: Path, pipe: Any, encoder: Any) -> str:
    """Write a random IP-Adapter for a tiny pipeline's UNet. Return the path."""
    generator = torch.Generator().manual_seed(0)
    context, embedded = pipe.unet.config.cross_attention_dim, encoder.config.projection_dim
    tokens = 4
    shapes = {
        "image_proj.proj.weight": (tokens * context, embedded),
        "image_proj.proj.bias": (tokens * context,),
        "image_proj.norm.weight": (context,),
        "image_proj.norm.bias": (context,),
    }
    for number, name in enumerate(pipe.unet.attn_processors):
        if name.endswith("attn2.processor"):
            layer = pipe.unet.get_submodule(name.removesuffix(".processor"))
            shapes |= {f"ip_adapter.{number}.to_{x}_ip.weight": (layer.to_k.out_features, context) for x in "kv"}
    save_file({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}, str(path))
    return str(path)


@pytest.fixture
def ip_adapter(tmp_path: Path) -> dict[str, str]:
    """Weights of a tiny IP-Adapter and its image encoder."""
    encoder, _ = tiny_pipelines.clip_vision()
    encoder.save_pretrained(tmp_path / "image_encoder")
    file = ip_adapter_file(tmp_path / "ip.safetensors", tiny_pipelines.build("sd_inpaint_9ch"), encoder)
    return {"ip_adapter": file, "image_encoder": str(tmp_path / "image_encoder" / "config.json")}


def test_an_ip_adapter_reads_each_rows_own_exemplar(editor: Callable[..., Any], ip_adapter: dict[str, str]) -> None:
    loaded = editor("sd_inpaint_9ch", ip_adapter, exemplar_scale=1.0)
    assert (loaded.max_batch, loaded.loaded.exemplar_side) == (1, 32)
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = 255
    assert loaded.prepare_exemplar(wide, {}).shape == (32, 32, 3)
    assert loaded.prepare_exemplar(wide, {}).min() == 255
    with pytest.raises(EditError, match="give the manifest an exemplar column"):
        loaded.edit_batch(example())
    exemplars = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    one = pixels(loaded.edit_batch(example(exemplar=exemplars)))
    other = pixels(loaded.edit_batch(example(exemplar=np.stack([exemplars[0], *(255 - exemplars[1:])]))))
    assert np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1], other[1])
    off = pixels(loaded.edit_batch(example(exemplar=exemplars, params={"exemplar_scale": 0.0})))
    plain = pixels(editor("sd_inpaint_9ch", rows_per_call=1).edit_batch(example()))
    assert np.abs(off - plain).max() <= 1


def test_an_ip_adapter_needs_its_encoder(editor: Callable[..., Any], ip_adapter: dict[str, str]) -> None:
    with pytest.raises(WeightsError, match="ip_adapter needs role image_encoder"):
        editor("sd_inpaint_9ch", {"ip_adapter": ip_adapter["ip_adapter"]})


def test_a_reference_of_kontext_inpainting_is_the_rows_exemplar(editor: Callable[..., Any]) -> None:
    loaded = editor("flux_kontext_inpaint")
    exemplars = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    one = pixels(loaded.edit_batch(example(exemplar=exemplars)))
    other = pixels(loaded.edit_batch(example(exemplar=np.stack([exemplars[0], *(255 - exemplars[1:])]))))
    assert np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1], other[1])


# -- how it is computed --


def test_a_step_cache_that_looks_at_all_rows_gets_one_row_per_call(editor: Callable[..., Any]) -> None:
    loaded = editor("qwen_inpaint", cache={"name": "first_block", "threshold": 0.1})
    assert loaded.max_batch == 1
    with pytest.raises(ConfigError, match="does not support it in this diffusers"):
        editor("flux_fill", cache={"name": "first_block", "threshold": 0.1})
    with pytest.raises(ConfigError, match="cache first_block"):
        editor("qwen_inpaint", cache={"name": "first_block", "treshold": 0.1})


def test_attention_and_tiling_change_little(editor: Callable[..., Any]) -> None:
    plain = pixels(editor("flux_fill").edit_batch(example()))
    math = pixels(editor("flux_fill", attention="_native_math", vae_tiling=True).edit_batch(example()))
    assert np.abs(plain - math).max() <= 1


@pytest.mark.skipif(find_spec("torchao") is None, reason="pip install torchao runs it")
def test_quantized_weights_edit_alike(editor: Callable[..., Any]) -> None:
    plain = pixels(editor("flux_fill").edit_batch(example()))
    settings = {"backend": "torchao", "components": ["transformer"], "quant_type": "int8wo"}
    quantized = pixels(editor("flux_fill", quantization=settings).edit_batch(example()))
    assert 0 < np.abs(plain - quantized).max() <= 8


def test_group_offload_edits_alike(editor: Callable[..., Any]) -> None:
    plain = pixels(editor("sd_inpaint_9ch").edit_batch(example()))
    assert np.abs(pixels(editor("sd_inpaint_9ch", offload="group").edit_batch(example())) - plain).max() <= 1
