"""Parameters of the editor ``diffusers``, with their defaults and reasons. Names are diffusers' where it has one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import with_config

from retouch.editors.params import overridden
from retouch.errors import ConfigError

# Settled when the networks are loaded: a row cannot change them.
LOADED: Final = (
    "pipeline",
    "task",
    "size",
    "scheduler",
    "precision",
    "compile",
    "offload",
    "attention",
    "quantization",
    "cache",
    "vae_tiling",
    "safety_checker",
    "rows_per_call",
)
# Ours to the argument of a pipeline's call. None leaves the pipeline's default.
ARGUMENTS: Final[Mapping[str, str]] = {
    "steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
    "true_cfg_scale": "true_cfg_scale",
    "image_guidance_scale": "image_guidance_scale",
    "strength": "strength",
    "max_sequence_length": "max_sequence_length",
    "clip_skip": "clip_skip",
}
# Arguments of a call that the editor itself gives, so that ``call`` may not.
OWN: Final = frozenset(
    {
        "image",
        "images",
        "mask",
        "mask_image",
        "prompt",
        "negative_prompt",
        "generator",
        "height",
        "width",
        "latents",
        "num_images_per_prompt",
        "output_type",
        "return_dict",
        "padding_mask_crop",
        "callback_on_step_end",
    }
)


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class Params:
    """How one edit is made.

    Raises:
        ConfigError: a value out of its range.
    """

    # What is run.
    pipeline: str | None = None
    """Class of diffusers, such as FluxFillPipeline; null: the one that the weights name."""
    task: Literal["auto", "inpaint", "edit"] = "auto"
    """inpaint fills the mask, edit changes the whole image by the prompt; auto: what the pipeline's class does. Weights
    of a text-to-image pipeline inpaint."""
    size: int | Literal["auto", "aspect"] | tuple[int, int] = "auto"
    """Network's size in pixels: auto, the model's own square; aspect, about as many pixels in the image's shape; N,
    a square; [height, width], whatever the image's shape."""
    scheduler: str | dict[str, Any] | None = None
    """Such as unipc, or {name: dpm++, use_karras_sigmas: true} with settings of diffusers; null: the weights' own."""

    # How it is sampled. A row may change these.
    steps: int | None = None
    """num_inference_steps; null: the pipeline's default."""
    guidance_scale: float | None = None
    """Of the text; null: the pipeline's default. Distilled models (FLUX) take it as an input."""
    true_cfg_scale: float | None = None
    """Classifier-free guidance of distilled models (FLUX, Qwen); above 1 it reads the negative prompt."""
    image_guidance_scale: float | None = None
    """Of the source image, for InstructPix2Pix."""
    strength: float | None = None
    """1 ignores the source inside the mask, less keeps some of it. null: 1 for masks, else the pipeline's default."""
    negative_prompt: str = ""
    """What not to paint, for rows whose negative_prompt is empty."""
    max_sequence_length: int | None = None
    """Tokens of the prompt, for T5 and Qwen."""
    clip_skip: int | None = None
    """Layers of CLIP's text tower to leave out at its end."""
    lora_scale: float | dict[str, float] = 1.0
    """Of the weights of role lora; by adapter where there are several: {style: 0.8}."""
    exemplar_scale: float | None = None
    """How much an exemplar counts against the prompt (IP-Adapter, Redux); null: 1."""
    control_scale: float | None = None
    """How much the ControlNet's image counts; null: the pipeline's default."""
    call: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's call, such as {guidance_rescale: 0.7}."""

    # How it is computed.
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of all networks and of the noise."""
    compile: Literal["none", "blocks", "whole"] = "none"
    """torch.compile of the denoiser: its repeated blocks, or all of it. Takes minutes at the start, for GPUs."""
    offload: Literal["none", "model", "sequential", "group"] = "none"
    """Networks wait in the main memory; sequential needs least of the GPU's and is slowest."""
    attention: str | None = None
    """Attention back end of diffusers: native, flash, sage, ..."""
    quantization: dict[str, Any] | None = None
    """{backend: torchao, components: [transformer], ...}: arguments of diffusers' PipelineQuantizationConfig."""
    cache: dict[str, Any] | None = None
    """Step cache: {name: first_block, threshold: 0.1}; also magcache, taylorseer, pyramid."""
    vae_tiling: bool = False
    """Decode in tiles: less memory for large images."""
    safety_checker: bool = True
    """Where the weights bring one: a flagged row is filtered, and has no image."""
    rows_per_call: Literal["auto", 1] = "auto"
    """auto: a batch where the pipeline keeps rows apart, which has been measured for each class, else one row."""

    def __post_init__(self) -> None:
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise ConfigError(f"steps is {self.steps}; give 1 to 1000")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ConfigError(f"strength is {self.strength}; give more than 0, up to 1 (the source is ignored)")
        for name in ("guidance_scale", "true_cfg_scale", "image_guidance_scale", "control_scale", "exemplar_scale"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} is {value}; give 0 or more")
        for side in (self.size,) if isinstance(self.size, int) else self.size if isinstance(self.size, tuple) else ():
            if not 8 <= side <= 16384:
                raise ConfigError(f"size is {self.size}; give 8 to 16384 pixels per side")
        for name in ("scheduler", "cache"):
            value = getattr(self, name)
            if isinstance(value, dict) and not isinstance(value.get("name"), str):
                raise ConfigError(f"{name} has no name; give {name}: {{name: ..., ...}}")
        if self.quantization is not None and not isinstance(self.quantization.get("backend"), str):
            raise ConfigError("quantization has no backend; give quantization: {backend: torchao, components: [...]}")
        if taken := sorted(OWN & set(self.call)):
            raise ConfigError(f"call.{taken[0]} is given by the editor; leave it out of call")
        if named := sorted(ours for ours, theirs in ARGUMENTS.items() if theirs in self.call):
            raise ConfigError(f"call.{ARGUMENTS[named[0]]} has a param of its own: set params.{named[0]}")

    def overridden(self, values: Mapping[str, Any]) -> Params:
        """Return these params with a row's own values.

        Raises:
            ConfigError: an unknown name, a value out of its range, or one that is settled when networks are loaded.
        """
        changed = overridden(self, values)
        for name in LOADED:
            if getattr(changed, name) != getattr(self, name):
                raise ConfigError(f"{name} is settled when the networks are loaded: set it in the job's params")
        return changed

    def lora_scales(self, adapters: Sequence[str]) -> list[float]:
        """Return the scale of each adapter, in order.

        Raises:
            ConfigError: a name is no adapter's.
        """
        if not isinstance(self.lora_scale, dict):
            return [float(self.lora_scale)] * len(adapters)
        if unknown := sorted(set(self.lora_scale) - set(adapters)):
            raise ConfigError(f"lora_scale names {unknown[0]}; the weights have: {', '.join(adapters) or 'no lora'}")
        return [float(self.lora_scale.get(name, 1.0)) for name in adapters]

    def given_arguments(self) -> dict[str, Any]:
        """Return the arguments of a pipeline's call that were given, by their name there."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {theirs: fields[ours] for ours, theirs in ARGUMENTS.items() if fields[ours] is not None} | self.call
