"""Paint by Example's knobs, their defaults and reasons. Knows no network and no tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from retouch.editors.params import overridden
from retouch.errors import ConfigError


@dataclass(frozen=True)
class Params:
    """How one edit is made.

    Raises:
        ConfigError: a value out of its range, or one that its sampler does not read.
    """

    # The walk.
    steps: int = 50  # plms and ddim: the published grid, 1000 // steps apart, which may hold more; solvers: 20 serve
    sampler: Literal["plms", "ddim", "dpm++", "unipc"] = "plms"  # the published command's; one pass more than steps
    eta: float = 0.0  # ddim only: 0 deterministic, 1 as noisy as ancestral sampling

    # What the networks see.
    guidance_scale: float = 5.0  # the published examples'; 1 leaves the unconditional pass out, more follows closer
    reference: Literal["squash", "crop"] = "squash"  # the exemplar made square: as published, or diffusers' centre crop
    tokens: Literal["class", "all"] = "class"  # all: the paper's ablation without bottleneck; needs weights for it
    mask_resize: Literal["bilinear", "nearest"] = "bilinear"  # to the latent's size: as published, or diffusers'
    posterior: Literal["sample", "mode"] = "sample"  # the masked image's latent: drawn, as published, or its mean

    safety_checker: bool = True  # where the weights bring one: a flagged row is filtered, and has no image
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the UNet; x stays float32
    compile: bool = False  # torch.compile of the UNet: minutes at the start of each worker, for GPUs

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
        """Columns that a row cannot do without."""
        return frozenset({"exemplar"})

    def overridden(self, values: Mapping[str, Any]) -> Params:
        """These params with a row's own values over them.

        Raises:
            ConfigError: an unknown name, or a value out of its range.
        """
        return overridden(self, values)
