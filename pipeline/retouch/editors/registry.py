"""Declarations of the shipped editors: inputs, parameters and result columns, without importing torch.

A job is checked and planned with these classes alone, which saves the seconds that importing torch takes. ``load``
returns the editor itself, of a subclass in the editor's folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Self, cast

from retouch.editors.blended_diffusion import params as blended_params
from retouch.editors.blended_latent import params as latent_params
from retouch.editors.diffusers import params as diffusers_params
from retouch.editors.diffusionclip import params as diffusionclip_params
from retouch.editors.endpoint import params as endpoint_params
from retouch.editors.paint_by_example import params as exemplar_params
from retouch.schema import Batch, EditResult


class _Declared(ABC):
    """Loads the editor that a subclass declares."""

    image_size: int
    _module: ClassVar[str]  # module of the editor itself, a class of the same name

    @classmethod
    def load(cls, params: Any, weights: Mapping[str, str], device: str) -> Self:
        """Read the networks. Raises ConfigError, WeightsError."""
        editor: Any = getattr(import_module(cls._module), cls.__name__)
        return cast("Self", editor.load(params, weights, device))

    @abstractmethod
    def edit_batch(self, batch: Batch) -> list[EditResult]:
        """Return one result per entry, in order."""


class BlendedDiffusion(_Declared):
    """Edits the masked region of an image towards a text or an exemplar (Avrahami et al. 2022).

    Weights: ``unet`` and ``clip``; ``lpips`` (VGG) if ``background_preservation_loss`` uses it.
    """

    version: ClassVar[str] = "2"  # version 1 rounded differently in CLIP's ResNets
    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "prompt", "exemplar"})
    Params: ClassVar[type] = blended_params.Params
    rank_by: ClassVar[str | None] = "clip_distance"
    columns: ClassVar[Mapping[str, str]] = {"clip_distance": "float64"}
    _module = "retouch.editors.blended_diffusion.editor"


class BlendedLatent(_Declared):
    """Edits the masked region towards a text, with any Stable Diffusion or SDXL folder (Avrahami et al. 2023).

    Weights: ``model_index``, a text-to-image folder in diffusers' layout; ``clip`` to rank candidates by their
    similarity to the prompt; ``safety``, a safety checker, unless the folder brings its own. ``prompt_tokens_cut``:
    tokens of the prompt that the text encoder did not read.
    """

    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "prompt", "negative_prompt"})
    Params: ClassVar[type] = latent_params.Params
    rank_by: ClassVar[str | None] = "clip_distance"
    columns: ClassVar[Mapping[str, str]] = {"clip_distance": "float64", "prompt_tokens_cut": "int32"}
    _module = "retouch.editors.blended_latent.editor"


class PaintByExample(_Declared):
    """Puts an exemplar's object into the masked region (Yang et al. 2022).

    Weights: those of ``models.paint_by_example.load_networks``; ``clip`` to rank candidates by their similarity to the
    exemplar; ``safety``, a safety checker, unless a diffusers folder brings its own.
    """

    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "exemplar"})
    Params: ClassVar[type] = exemplar_params.Params
    rank_by: ClassVar[str | None] = "exemplar_distance"
    columns: ClassVar[Mapping[str, str]] = {"exemplar_distance": "float64"}
    _module = "retouch.editors.paint_by_example.editor"


class Diffusers(_Declared):
    """Runs any edit pipeline of diffusers: text inpainting, instructions, exemplars, LoRAs, ControlNets.

    Weights: a diffusers folder (role ``model_index``), or one file (``checkpoint``) with the folder of its base model
    (``config``); ``network.NAME`` in place of the folder's own (``network.unet``); ``lora`` or ``lora.NAME``, files;
    ``controlnet``, a folder; ``ip_adapter``, a file, with ``image_encoder``, a folder; ``redux``, a folder; ``clip`` to
    rank candidates by their similarity to the prompt.
    """

    version: ClassVar[str] = "0.42"  # minor version of diffusers, with which pixels change
    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "prompt", "negative_prompt", "exemplar", "control"})
    Params: ClassVar[type] = diffusers_params.Params
    rank_by: ClassVar[str | None] = "clip_distance"
    columns: ClassVar[Mapping[str, str]] = {
        "clip_distance": "float64",
        "network_size": "string",  # width x height of the pipeline's image
        "prompt_tokens_cut": "int32",  # tokens of the prompt that no text encoder reads
    }
    _module = "retouch.editors.diffusers.editor"


class DiffusionClip(_Declared):
    """Takes images to another domain by networks that were fine-tuned for it (Kim, Kwon, Ye 2022).

    Weights: ``unet`` is the source network; every other role is a fine-tuned copy of it that ``networks`` or a batch's
    ``checkpoint`` names (default: ``tuned``), loaded when it is first used; ``clip`` if ``optimise`` is above 0. A
    ``checkpoint`` may be an absolute path, too. Class-conditional networks get no class, as published.
    """

    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "prompt", "source_prompt", "checkpoint"})
    fills_masks: ClassVar[bool] = False  # it changes what is there
    Params: ClassVar[type] = diffusionclip_params.Params
    rank_by: ClassVar[str | None] = None  # candidates differ by noise alone; metrics compare them
    columns: ClassVar[Mapping[str, str]] = {}
    _module = "retouch.editors.diffusionclip.editor"


class Endpoint(_Declared):
    """Sends each row to an OpenAI-compatible server's ``/images/edits``: vLLM-Omni, SGLang-Diffusion, a hosted model.

    It has no weights. ``reproducible`` is false: the server decides what a row looks like.
    """

    version: ClassVar[str] = "1"
    inputs: ClassVar[frozenset[str]] = frozenset({"mask", "prompt", "negative_prompt"})
    Params: ClassVar[type] = endpoint_params.Params
    rank_by: ClassVar[str | None] = None
    columns: ClassVar[Mapping[str, str]] = {"reproducible": "bool"}
    _module = "retouch.editors.endpoint.editor"
