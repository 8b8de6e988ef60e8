"""What the editor knows of each pipeline class of diffusers; a class that is not listed runs one row per call.

A class batches rows only after a test has shown, bit for bit, that a row depends neither on the other rows of its call
nor on its place among them (``tests/editors/diffusers/test_rows_apart.py``, diffusers 0.42). Those that mix rows are
listed with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True)
class Family:
    """How a pipeline class is called."""

    batches: bool = False  # rows of one call do not influence each other
    multiple: int = 16  # of the network's height and width, in pixels
    native: int | None = None  # side of its training images; None: as its networks' configurations say
    strength: float | None = None  # where the job gives none; None: the pipeline's default
    # What its ``encode_prompt`` returns, by the name of the call's argument; "" is left out. Rows are encoded alone, so
    # that neither mates nor their lengths matter, and a text is encoded once. Empty: prompts are given as texts.
    embeds: tuple[str, ...] = ()
    # Whether ``encode_prompt`` encodes the negative prompt as well, or is called again for it.
    negative: Literal["together", "again"] | None = None
    empty_negative: str | None = None  # in place of an empty negative prompt
    offers_cache: bool = False  # opens the cache context that step caches need


_SD: Final = ("prompt_embeds", "negative_prompt_embeds")
_POOLED: Final = (*_SD, "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
FLUX_EMBEDS: Final = ("prompt_embeds", "pooled_prompt_embeds", "")

_stable_diffusion = Family(True, 8, embeds=_SD, negative="together")
_sdxl = Family(True, 8, embeds=_POOLED, negative="together")
_flux = Family(True, 16, strength=1.0, embeds=FLUX_EMBEDS, negative="again")
# Prompts of a call are padded to its longest, and a mask of ones becomes none, which is another kernel.
_qwen = Family(False, 16, 1024, strength=1.0, empty_negative=" ", offers_cache=True)

FAMILIES: Final[Mapping[str, Family]] = {
    "StableDiffusionInpaintPipeline": _stable_diffusion,
    "StableDiffusionImg2ImgPipeline": _stable_diffusion,
    "StableDiffusionControlNetInpaintPipeline": _stable_diffusion,
    "StableDiffusionInstructPix2PixPipeline": Family(True, 8),
    "StableDiffusionXLInpaintPipeline": _sdxl,
    "StableDiffusionXLControlNetInpaintPipeline": _sdxl,
    "StableDiffusionXLInstructPix2PixPipeline": _sdxl,
    "StableDiffusion3InpaintPipeline": Family(True, 16, strength=1.0, embeds=_POOLED, negative="together"),
    "FluxFillPipeline": Family(True, 16, embeds=FLUX_EMBEDS),
    "FluxInpaintPipeline": _flux,
    "FluxKontextPipeline": _flux,
    "FluxKontextInpaintPipeline": _flux,
    "ChromaInpaintPipeline": Family(
        True,
        16,
        strength=1.0,
        embeds=(
            "prompt_embeds",
            "",
            "prompt_attention_mask",
            "negative_prompt_embeds",
            "",
            "negative_prompt_attention_mask",
        ),
        negative="together",
    ),
    "ZImageInpaintPipeline": Family(True, 16, 1024),
    "Flux2KleinInpaintPipeline": Family(True, 16, 1024, strength=1.0),
    # A list of images is several references of one edit.
    "Flux2Pipeline": Family(False, 16, 1024),
    "Flux2KleinPipeline": Family(False, 16, 1024),
    "Flux2KleinKVPipeline": Family(False, 16, 1024),
    # The first row's image and mask are blended into all rows.
    "KandinskyV22InpaintCombinedPipeline": Family(False, 64, 512),
    "QwenImageInpaintPipeline": _qwen,
    "QwenImageEditPipeline": _qwen,
    "QwenImageEditInpaintPipeline": _qwen,
    "QwenImageEditPlusPipeline": _qwen,  # raises for more than one row
}


def family_of(name: str) -> Family:
    """Return how a class is called; one row per call for a class that is not listed."""
    return FAMILIES.get(name, Family())
