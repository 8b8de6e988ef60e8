"""Tiny CLIPs with random weights in each layout that ``load_clip`` reads."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import trace_model
from safetensors.torch import save_file
from torch import nn

MERGES = ["r e", "re d</w>", "a t</w>", "c at</w>"]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def own_config(tower: str = "vit", image_size: int = 32) -> dict[str, Any]:
    """Return the keywords of a CLIP whose vocabulary is the bytes, ``MERGES``, start and end."""
    vision: dict[str, Any] = {"image_size": image_size, "width": 64, "layers": 2, "patch_size": 8, "head_width": 32}
    if tower == "resnet":
        vision = {"image_size": image_size, "width": 8, "layers": [1, 1, 1, 1]}
    text = {"context_length": 12, "vocab_size": 512 + len(MERGES) + 2, "width": 32, "heads": 2, "layers": 1}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def random_clip(config: dict[str, Any]) -> nn.Module:
    """Return a frozen CLIP with random statistics in its normalisation layers, as if trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**config)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 2)
    return model.eval().requires_grad_(requires_grad=False)


def write_own_layout(folder: Path, tower: str = "vit", image_size: int = 32) -> tuple[str, nn.Module]:
    """Write ``clip.safetensors``, ``clip.json`` and the merges; return the file's path and the model."""
    config = own_config(tower, image_size)
    model = random_clip(config)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "clip.safetensors")
    (folder / "bpe_merges.txt.gz").write_bytes(gzip.compress("\n".join(["#version", *MERGES]).encode()))
    tokenizer = {"merges": "bpe_merges.txt.gz", "context_length": config["text_cfg"]["context_length"]}
    card = {"model_cfg": config, "tokenizer": tokenizer, "mean": MEAN, "std": STD, "image_size": image_size}
    (folder / "clip.json").write_text(json.dumps(card))
    return str(folder / "clip.safetensors"), model


def openai_config() -> dict[str, Any]:
    """Return the keywords of the smallest CLIP with OpenAI's proportions (heads of 64) and vocabulary."""
    vision = {"image_size": 32, "width": 64, "layers": 2, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def write_openai_layout(folder: Path, archive: bool) -> tuple[str, nn.Module]:
    """Write OpenAI's ``.pt``, as the published archive or as a state dict; return the file's path and the model."""
    model = random_clip(openai_config())
    path = folder / "ViT-tiny.pt"
    if archive:
        model.visual.image_size = 32  # the tracer needs a number
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing is deprecated, but the archives were made by it
            trace_model(model, batch_size=1).save(str(path))
    else:
        numbers = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
        torch.save({**model.state_dict(), **{name: torch.tensor(n) for name, n in numbers.items()}}, path)
    return str(path), model
