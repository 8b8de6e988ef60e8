"""Recognise a checkpoint's architecture by its tensors' names, and convert it to safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from torch import Tensor

from retouch.errors import WeightsError
from retouch.models.arcface import load_arcface
from retouch.models.clip import load_clip, openai_state_dict
from retouch.models.deeplab import load_segmenter
from retouch.models.inception import load_inception
from retouch.models.lightning import lightning_globals
from retouch.models.lpips import load_lpips
from retouch.models.paint_by_example import load_networks
from retouch.models.unet import load_unet
from retouch.storage.local import temporary_name


@dataclass(frozen=True)
class _Loader:
    marker: str  # a tensor that only such files have
    architecture: str
    role: str  # in a job's weights
    load: Callable[[str], Any]


_LOADERS: Final = (
    _Loader("time_embed.0.weight", "a guided-diffusion UNet", "unet", load_unet),
    _Loader("temb.dense.0.weight", "a DDPM UNet", "unet", load_unet),
    _Loader(
        "model.diffusion_model.input_blocks.0.0.weight",
        "a Paint by Example checkpoint",
        "checkpoint",
        lambda path: load_networks({"checkpoint": path}),
    ),
    _Loader("text_projection", "an OpenAI CLIP", "clip", load_clip),
    _Loader("input_layer.0.weight", "InsightFace's IR-SE50", "arcface", load_arcface),
    _Loader("Mixed_5b.branch1x1.conv.weight", "an InceptionV3", "inception", load_inception),
    _Loader("classifier.4.bias", "a DeepLabV3", "segmentation", load_segmenter),
    _Loader("features.28.weight", "a VGG16 trunk for LPIPS", "lpips", load_lpips),
)


def read_checkpoint(path: str) -> dict[str, Tensor]:
    """Return the tensors by name of a published checkpoint in any known form; no code in it is run.

    Raises:
        WeightsError: missing, broken, unsafe, or no tensors by name.
    """
    with lightning_globals():
        return openai_state_dict(path)


def recognize(path: str, state: Mapping[str, Tensor]) -> str:
    """Return one line with a file's architecture and its role in a job, or that no loader reads it.

    Args:
        path: the file; its loader is tried on it.
        state: its tensors by name.
    """
    for loader in _LOADERS:
        if loader.marker in state:
            try:
                loader.load(path)
            except WeightsError as error:
                return f"looks like {loader.architecture}, but does not load as one: {error}"
            return f"{loader.architecture}: role {loader.role}"
    return f"no loader of this package reads it ({len(state)} tensors, first: {min(state)})"


def convert(source: str, target: str) -> str:
    """Write a checkpoint's tensors as safetensors: same names, shapes and dtypes; a .json sidecar is copied.

    Returns:
        Its architecture, as ``recognize`` does.

    Raises:
        WeightsError: ``source`` cannot be read, or ``target`` is no name of a safetensors file.
    """
    if not target.endswith(".safetensors") or Path(source) == Path(target):
        raise WeightsError(f"cannot write {target}: give another file than the source, ending in .safetensors")
    # Cloned: tensors that share memory, which pickles may hold, are refused by the format.
    state = {name: value.detach().contiguous().clone() for name, value in read_checkpoint(source).items()}
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    with temporary_name(Path(target)) as rough:
        save_file(state, rough, metadata={"format": "pt"})
        rough.replace(target)
    card = Path(source).with_suffix(".json")
    if card.is_file():
        Path(target).with_suffix(".json").write_bytes(card.read_bytes())
    return recognize(target, state)
