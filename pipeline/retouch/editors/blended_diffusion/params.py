"""Parameters of Blended Diffusion, with their defaults and reasons, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import with_config

from retouch.editors.params import overridden
from retouch.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """Values of the fields for which no single default is right: the paper and its published code differ.

    The defaults are the published code's, without its slips.
    """

    aug_num: int = 8  # the code's number, half the paper's time
    distance: Literal["spherical", "cosine"] = "spherical"  # steeper than cosine where an image is far from its text
    guide_on: Literal["blend", "x0"] = "blend"  # CLIP knows clean images: nearly x0 early on, nearly x_t at the end
    gradient: Literal["x_t", "x0"] = "x_t"  # through the network; for the cost see tests/benchmarks
    lpips_lambda: float = 1000.0
    l2_lambda: float = 10000.0
    background_target: Literal["masked", "unmasked"] = "masked"  # unmasked pulls the black inside towards the source
    augmentation: Literal["affine+perspective", "perspective"] = "affine+perspective"
    translate: Literal["both", "vertical"] = "both"  # the code's scalar shifts views up and down only
    ranking: Literal["guidance", "repo"] = "guidance"  # the code ranks without CLIP's normalisation


PRESETS: Final[Mapping[str | None, Preset]] = {
    None: Preset(),
    # No backward pass of the network, and fewer views; on the shipped networks neither costs agreement with the judge.
    "balanced": Preset(gradient="x0", aug_num=4),
    "fast": Preset(gradient="x0", aug_num=2),
    "repo": Preset(background_target="unmasked", translate="vertical", ranking="repo"),
    "paper": Preset(
        aug_num=16,
        distance="cosine",
        guide_on="x0",
        gradient="x0",
        lpips_lambda=500.0,  # lambda = 1000 on half of (MSE + LPIPS)
        l2_lambda=500.0,
        augmentation="perspective",  # "projective transformations" only
    ),
}


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class Params:
    """How one edit is made. Lambdas are those of 256 x 256; a network of S x S has (256/S)^2 times fewer pixels.

    Raises:
        ConfigError: a value out of its range.
    """

    preset: Literal["balanced", "fast", "paper", "repo"] | None = None
    """Values of all fields that are none; fields that are given win over it."""

    # Sampling.
    timesteps: int | str = 100
    """Respaced from 1,000; also "10,10" and "ddim25"."""
    skip_timesteps: int = 25
    """75 of 100 steps: room to change shapes; 33 for backgrounds, 40 to keep a scribble."""
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    """ddpm is better than ddim at 100 steps (the paper's appendix)."""
    eta: float = 0.0
    """Sampler ddim only: 0 deterministic, 1 as noisy as ddpm."""
    variance: Literal["small", "large"] = "small"
    """Sampler ddpm with networks that learned no variance: the posterior's, or beta."""

    # Guidance.
    guide: Literal["text", "exemplar"] = "text"
    """exemplar: towards CLIP's embedding of the exemplar's image."""
    clip_guidance_lambda: float = 1000.0
    """Strength of the guidance, as published."""
    range_lambda: float = 50.0
    """Keeps x0 in [-1, 1] in place of clamping, which would cut the gradient."""
    distance: Literal["spherical", "cosine"] | None = None
    """Distance between image and text; none: by preset."""
    guide_on: Literal["blend", "x0"] | None = None
    """What CLIP sees: x0, or a blend of x0 and x_t; none: by preset."""
    gradient: Literal["x_t", "x0"] | None = None
    """With respect to what; x0 needs no backward pass of the network; none: by preset."""
    aug_num: int | None = None
    """Views per step, the plain one included; 1 = no augmentation; none: by preset."""
    augmentation: Literal["affine+perspective", "perspective"] | None = None
    """Warps of the views; none: by preset."""
    translate: Literal["both", "vertical"] | None = None
    """Directions in which views are moved; none: by preset."""
    class_mode: Literal["random", "zero"] = "random"
    """Class-conditional networks: a new class every step, or no class."""

    # Background.
    blend: bool = True
    """Algorithm 2: after every step, replace what is outside the mask by the source at the same noise level."""
    enforce_background: bool = True
    """Paste the last step's x0 into the source."""
    local_clip_guided: bool = False
    """Algorithm 1, the baseline: neither blend nor enforce_background."""
    background_preservation_loss: bool = False
    """What Algorithm 1 uses in place of blending."""
    lpips_lambda: float | None = None
    """Strength of the LPIPS part of that loss; none: by preset."""
    l2_lambda: float | None = None
    """Strength of its square error, per image (the published code's mean spans the batch, too); none: by preset."""
    background_target: Literal["masked", "unmasked"] | None = None
    """The source's side of that loss; none: by preset."""

    ranking: Literal["guidance", "repo"] | None = None
    """clip_distance as guidance sees the region, or on black and without CLIP's normalisation; none: by preset."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of UNet and CLIP; x stays float32."""
    compile: bool = False
    """torch.compile of the UNet: takes minutes at the start of each worker, for GPUs."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ConfigError(
                f"no preset named {self.preset!r}; there are: {', '.join(name for name in PRESETS if name)}"
            )
        if self.aug_num is not None and self.aug_num < 1:
            raise ConfigError(f"aug_num is {self.aug_num}; 1 is the plain view alone, 8 the published number")
        if self.skip_timesteps < 0:
            raise ConfigError(f"skip_timesteps is {self.skip_timesteps}; give 0 or more")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}; give 0 (deterministic) to 1 (as noisy as ddpm)")
        for name in ("clip_guidance_lambda", "range_lambda", "lpips_lambda", "l2_lambda"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ConfigError(f"{name} is {value}; a negative weight would push away: give 0 or more")

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
        """Columns without which a row cannot be edited. The prompt is optional: an empty one removes what is there."""
        return frozenset({"exemplar"} if self.guide == "exemplar" else ())

    @property
    def blends(self) -> bool:
        """Whether each step is blended with the noised source."""
        return self.blend and not self.local_clip_guided

    @property
    def pastes(self) -> bool:
        """Whether the result is pasted into the source."""
        return self.enforce_background and not self.local_clip_guided


@dataclass(frozen=True)
class ResolvedParams(Preset, Params):
    """Params with a value in every field of the preset."""
