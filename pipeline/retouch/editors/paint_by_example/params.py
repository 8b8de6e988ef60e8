"""Parameters of Paint by Example, with their defaults and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import with_config

from retouch.editors.params import overridden
from retouch.errors import ConfigError


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class Params:
    """How one edit is made.

    Raises:
        ConfigError: a value out of its range, or one that its sampler does not read.
    """

    # Sampling.
    steps: int = 50
    """plms and ddim: the published grid, 1000 // steps apart, which may hold more; dpm++ and unipc: 20 are enough."""
    sampler: Literal["plms", "ddim", "dpm++", "unipc"] = "plms"
    """plms is the published command's; it takes one pass more than steps."""
    eta: float = 0.0
    """Sampler ddim only: 0 deterministic, 1 as noisy as ancestral sampling."""

    # What the networks see.
    guidance_scale: float = 5.0
    """As in the published examples; 1 needs no unconditional pass, more follows the exemplar more closely."""
    reference: Literal["squash", "crop"] = "squash"
    """How the exemplar is made square: squashed, as published, or diffusers' centre crop."""
    tokens: Literal["class", "all"] = "class"
    """all: the paper's ablation without bottleneck; needs weights for it."""
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"
    """To the latent's size: bilinear, as published, or nearest, as in diffusers."""
    posterior: Literal["sample", "mode"] = "sample"
    """The masked image's latent: sampled, as published, or its mean."""

    safety_checker: bool = True
    """Where the weights bring one: a flagged row is filtered, and has no image."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the UNet; x stays float32."""
    compile: bool = False
    """torch.compile of the UNet: takes minutes at the start of each worker, for GPUs."""

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise ConfigError(f"steps is {self.steps}; give 1 to 1000, 50 is the published number")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}; give 0 (deterministic) to 1 (as noisy as ancestral sampling)")
        if self.eta > 0 and self.sampler != "ddim":
            raise ConfigError(f"eta is {self.eta} but {self.sampler} is deterministic; take ddim, or eta 0")
        if self.guidance_scale < 0:
            raise ConfigError(f"guidance_scale is {self.guidance_scale}; a negative one pushes away: give 0 or more")

    @property
    def needs(self) -> frozenset[str]:
        """Columns without which a row cannot be edited."""
        return frozenset({"exemplar"})

    def overridden(self, values: Mapping[str, Any]) -> Params:
        """Return these params with a row's own values.

        Raises:
            ConfigError: an unknown name, or a value out of its range.
        """
        return overridden(self, values)
