"""Parameters of Blended Latent Diffusion, with their defaults and reasons, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import with_config

from retouch.editors.params import overridden
from retouch.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """Values of the fields in which the published variants differ."""

    guidance_scale: float = 7.5
    skip: float = 0.0
    start: Literal["source", "noise"] = "source"
    blend: Literal["before", "after"] = "after"
    renoise: Literal["t", "next"] = "next"  # the level of what it is blended with, so that no edge is noisier
    posterior: Literal["sample", "mean"] = "mean"
    mask_resize: Literal["nearest", "cover"] = "nearest"


PRESETS: Final[Mapping[str | None, Preset]] = {
    None: Preset(),
    "paper": Preset(guidance_scale=5.0, blend="before", renoise="t", posterior="sample"),
    "repo_sd2": Preset(skip=0.25, start="noise", renoise="t"),
    "repo_sdxl": Preset(guidance_scale=5.0, skip=0.25, renoise="t"),
}


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class Params:
    """How one edit is made.

    Raises:
        ConfigError: a value out of its range, or one that another value makes meaningless.
    """

    preset: Literal["paper", "repo_sd2", "repo_sdxl"] | None = None
    """The paper's latent diffusion scripts, or the authors' later scripts for Stable Diffusion 2.1 and SDXL. It sets
    all fields that are none; fields that are given win over it."""

    # Sampling.
    steps: int = 50
    """Of DDIM on the network's own schedule, those that are skipped included."""
    guidance_scale: float | None = None
    """1 needs no unconditional pass; none: by preset."""
    negative_prompt: str = ""
    """What the unconditional pass reads, for rows whose negative_prompt is empty."""
    skip: float | None = None
    """Share of the steps, from the noisiest, that is left out: more keeps more of the source; none: by preset."""
    start: Literal["source", "noise"] | None = None
    """The first x: the noised source, or noise alone; none: by preset."""

    # Blending.
    blend: Literal["before", "after"] | None = None
    """When the noised source replaces what is outside the mask: before each pass, or after each step; none: by
    preset."""
    renoise: Literal["t", "next"] | None = None
    """Noise level of that source after a step: the one before it, as in the published scripts, or the one that the
    step arrived at, in the end the clean source; none: by preset."""
    fresh_noise: bool = True
    """New noise for each blend, as published; false: that of the start in all."""
    posterior: Literal["sample", "mean"] | None = None
    """The source's latent; none: by preset."""
    mask_resize: Literal["nearest", "cover"] | None = None
    """To the latent's size: the middle pixel of each block, as published, or every block that has a pixel to edit, so
    that thin masks do not vanish; none: by preset."""
    shrink: int = 0
    """Masks before the row's own, each in an equal share of the steps: larger by 1, 2, ... latent pixels per side,
    the largest first. They give thin masks room."""
    pixel_blending: float = 0.0
    """Share of the steps, the last ones, that also paste the source's pixels into the predicted image."""

    # After sampling.
    background: Literal["none", "weights", "latents", "poisson"] = "none"
    """What makes the edit meet the source at the mask's edge. weights, latents: gradient steps on a copy of the
    decoder, or on the latent, for each image; poisson: the edit's gradients in the source's surroundings."""
    background_steps: int = 75
    """Of weights and latents."""
    background_weight: float = 100.0
    """Of weights and latents: of the error outside the mask, where that inside has 1."""

    safety_checker: bool = True
    """Where the weights bring one: a flagged row is filtered, and has no image."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the UNet; x, the text encoders and the autoencoder stay float32."""
    compile: bool = False
    """torch.compile of the UNet: takes minutes at the start of each worker, for GPUs."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            names = ", ".join(name for name in PRESETS if name)
            raise ConfigError(f"no preset named {self.preset!r}; there are: {names}")
        if not 1 <= self.steps <= 1000:
            raise ConfigError(f"steps is {self.steps}; give 1 to 1000, 50 is the published number")
        if self.skip is not None and not 0 <= self.skip < 1:
            raise ConfigError(f"skip is {self.skip}; give 0 (no step is left out) or more, below 1")
        if not 0 <= self.pixel_blending <= 1:
            raise ConfigError(f"pixel_blending is {self.pixel_blending}; give a share of the steps, 0 to 1")
        for name in ("guidance_scale", "background_weight"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ConfigError(f"{name} is {value}; a negative one pushes away: give 0 or more")
        if self.shrink < 0:
            raise ConfigError(f"shrink is {self.shrink}; give 0 (the row's own mask alone) or more")
        if self.background_steps < 1:
            raise ConfigError(f"background_steps is {self.background_steps}; give 1 or more, or background: none")
        if self.renoise == "next" and self.resolved().blend == "before":
            raise ConfigError("renoise is next but blend is before, where the source has the pass's own level")
        if self.negative_prompt and self.resolved().guidance_scale == 1:
            raise ConfigError("negative_prompt is not read with guidance_scale 1; raise it, or leave the prompt out")

    def overridden(self, values: Mapping[str, Any]) -> Params:
        """Return these params with a row's own values; a preset among them replaces this one.

        Raises:
            ConfigError: an unknown name, or a value out of its range.
        """
        return overridden(self, values)

    def resolved(self) -> ResolvedParams:
        """Return these params with the preset's values in the fields that are none."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return ResolvedParams(**{**vars(PRESETS[self.preset]), **given})

    @property
    def needs(self) -> frozenset[str]:
        """Columns without which a row cannot be edited. With an empty prompt the surroundings decide."""
        return frozenset()


@dataclass(frozen=True)
class ResolvedParams(Preset, Params):
    """Params with a value in every field of the preset."""

    def __post_init__(self) -> None:
        """Check nothing: the params that were resolved are checked."""
