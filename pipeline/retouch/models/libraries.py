"""What our networks take from diffusers and open_clip, without the rest of these libraries, which takes 12 s to import.

Importing this imports neither.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from retouch.models.lean_imports import absent, forget, without_siblings

if TYPE_CHECKING:
    from diffusers import UNet2DModel

_DIFFUSERS = tuple(f"diffusers.{name}" for name in ("models.unets", "models.transformers", "quantizers", "hooks"))


@functools.cache
def unet_2d() -> type[UNet2DModel]:
    """The class ``UNet2DModel`` of diffusers."""
    # torch._dynamo is for compiled networks, transformers for quantised pipelines; ours are neither.
    with absent("torch._dynamo"):
        importlib.import_module("diffusers.utils.torch_utils")
    with without_siblings(*_DIFFUSERS):
        with absent("transformers"):
            importlib.import_module("diffusers.quantizers.pipe_quant_config")
        unet: type[UNet2DModel] = importlib.import_module("diffusers.models.unets.unet_2d").UNet2DModel
    return unet


def open_clip_model() -> ModuleType:
    """Its module ``model``: the networks but those that timm or transformers make."""
    return _open_clip()["model"]


def open_clip_tokenizer() -> ModuleType:
    """Its module ``tokenizer``."""
    return _open_clip()["tokenizer"]


def open_clip_constants() -> ModuleType:
    """Its module ``constants``."""
    return _open_clip()["constants"]


@functools.cache
def _open_clip() -> dict[str, ModuleType]:
    names = ("model", "tokenizer", "constants")
    if "open_clip" in sys.modules:
        return {name: importlib.import_module(f"open_clip.{name}") for name in names}
    with absent("timm", "transformers"), without_siblings("open_clip", "torchvision", "torchvision.ops"):
        modules = {name: importlib.import_module(f"open_clip.{name}") for name in names}
    forget("open_clip")  # so that whoever imports it has all of its networks
    return modules
