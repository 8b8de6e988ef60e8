"""Blended Diffusion's knobs, their defaults and reasons, and the presets. Knows no network and no tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from retouch.editors.params import check_names
from retouch.errors import ConfigError

# Where the paper and its published code differ, no single default is right: these fields come from the preset, unless
# the job gives them. Without a preset they are the published code's, less what is a slip there.
_DEFAULT: Final[Mapping[str, Any]] = {
    "aug_num": 8,  # views a step; the code's number, half the paper's time
    "distance": "spherical",  # steeper than cosine where an image is far from its text
    "guide_on": "blend",  # CLIP knows clean images: nearly x0 early on, nearly x_t at the end
    "gradient": "x_t",  # through the network; x0 leaves its backward pass out; see tests/benchmarks
    "lpips_lambda": 1000.0,
    "l2_lambda": 10000.0,
    "background_target": "masked",  # unmasked asks the blackened inside of the mask to resemble the source
    "augmentation": "affine+perspective",
    "translate": "both",  # the code's scalar shifts views up and down only
    "ranking": "guidance",  # rank by what was guided: the code leaves CLIP's normalisation out here
}
PRESETS: Final[Mapping[str | None, Mapping[str, Any]]] = {
    None: _DEFAULT,
    # No backward pass of the network, and fewer views; on the shipped networks neither costs agreement with the judge.
    "balanced": {**_DEFAULT, "gradient": "x0", "aug_num": 4},
    "fast": {**_DEFAULT, "gradient": "x0", "aug_num": 2},
    "repo": {
        "aug_num": 8,
        "distance": "spherical",
        "guide_on": "blend",
        "gradient": "x_t",
        "lpips_lambda": 1000.0,
        "l2_lambda": 10000.0,
        "background_target": "unmasked",
        "augmentation": "affine+perspective",
        "translate": "vertical",
        "ranking": "repo",
    },
    "paper": {
        "aug_num": 16,
        "distance": "cosine",
        "guide_on": "x0",
        "gradient": "x0",
        "lpips_lambda": 500.0,  # lambda = 1000 on half of (MSE + LPIPS)
        "l2_lambda": 500.0,
        "background_target": "masked",
        "augmentation": "perspective",  # "projective transformations" only
        "translate": "both",
        "ranking": "guidance",
    },
}

_BY_PRESET: Any = None  # stands for "as the preset says" until __post_init__ has filled it in


@dataclass(frozen=True)
class Params:
    """How one edit is made. Lambdas are those of 256 x 256; a network of S x S has (256/S)^2 times fewer pixels.

    Raises:
        ConfigError: a value out of its range.
    """

    preset: Literal["balanced", "fast", "paper", "repo"] | None = None  # see PRESETS; fields that are given win over it

    # The walk.
    timesteps: int | str = 100  # respaced from 1,000; also "10,10" and "ddim25"
    skip_timesteps: int = 25  # 75 of 100 steps: room to change shapes; 33 for backgrounds, 40 to keep a scribble
    sampler: Literal["ddpm", "ddim"] = "ddpm"  # better than ddim at 100 steps (the paper's appendix)
    eta: float = 0.0  # ddim only: 0 deterministic, 1 as noisy as ddpm
    variance: Literal["small", "large"] = "small"  # ddpm on networks that learned none: the posterior's, or beta

    # What guides.
    guide: Literal["text", "exemplar"] = "text"  # exemplar: towards CLIP's embedding of the exemplar's image
    clip_guidance_lambda: float = 1000.0  # the published strength
    range_lambda: float = 50.0  # holds x0 in [-1, 1] in the place of clamping, which would cut the gradient
    distance: Literal["spherical", "cosine"] = _BY_PRESET  # between image and text, by preset
    guide_on: Literal["blend", "x0"] = _BY_PRESET  # what CLIP looks at
    gradient: Literal["x_t", "x0"] = _BY_PRESET  # with respect to what; x0 leaves the network's backward pass out
    aug_num: int = _BY_PRESET  # views a step, the plain one included; 1 = no augmentation
    augmentation: Literal["affine+perspective", "perspective"] = _BY_PRESET  # of the views
    translate: Literal["both", "vertical"] = _BY_PRESET  # in which directions views are moved
    class_mode: Literal["random", "zero"] = "random"  # class-conditional networks: redrawn every step, or no class

    # What keeps the background.
    blend: bool = True  # Algorithm 2: after every step, outside the mask, the source at the same noise level
    enforce_background: bool = True  # the last step's x0 is pasted into the source
    local_clip_guided: bool = False  # Algorithm 1, the baseline: neither blend nor enforce_background
    background_preservation_loss: bool = False  # what Algorithm 1 has for blending
    lpips_lambda: float = _BY_PRESET  # strength of its LPIPS part
    l2_lambda: float = _BY_PRESET  # on each image's own mean square; the code's mean spans the batch too
    background_target: Literal["masked", "unmasked"] = _BY_PRESET  # the source's side of that loss

    ranking: Literal["guidance", "repo"] = _BY_PRESET  # clip_distance as guidance sees it, or black outside and raw
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of UNet and CLIP; x stays float32
    compile: bool = False  # torch.compile of the UNet: minutes at the start of each worker, for GPUs

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ConfigError(
                f"no preset named {self.preset!r}; there are: {', '.join(name for name in PRESETS if name)}"
            )
        preset = PRESETS[self.preset]
        given = frozenset(name for name in preset if getattr(self, name) is not None)
        object.__setattr__(self, "_given", given)
        for name in preset.keys() - given:
            object.__setattr__(self, name, preset[name])
        self._check()

    def _check(self) -> None:
        if self.aug_num < 1:
            raise ConfigError(f"aug_num is {self.aug_num}; 1 is the plain view alone, 8 the published number")
        if self.skip_timesteps < 0:
            raise ConfigError(f"skip_timesteps is {self.skip_timesteps}; give 0 or more")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}; give 0 (deterministic) to 1 (as noisy as ddpm)")
        for name in ("clip_guidance_lambda", "range_lambda", "lpips_lambda", "l2_lambda"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; a negative weight would push away: give 0 or more")

    def overridden(self, values: Mapping[str, Any]) -> Params:
        """These params with a row's own values over them; a preset among the values wins over this one's.

        Raises:
            ConfigError: an unknown name, or a value out of its range.
        """
        if not values:
            return self
        names = [f.name for f in dataclasses.fields(self)]
        check_names(values, names)
        given: frozenset[str] = getattr(self, "_given")  # noqa: B009 - no field: equality and records leave it out
        from_preset = PRESETS[self.preset].keys() - given
        kept = {name: getattr(self, name) for name in names if name not in from_preset}
        return Params(**{**kept, **values})

    @property
    def needs(self) -> frozenset[str]:
        """Columns that a row cannot do without. The prompt is none: an empty one removes what is there."""
        return frozenset({"exemplar"} if self.guide == "exemplar" else ())

    @property
    def blends(self) -> bool:
        """Whether each step is blended with the noised source."""
        return self.blend and not self.local_clip_guided

    @property
    def pastes(self) -> bool:
        """Whether the result is pasted into the source."""
        return self.enforce_background and not self.local_clip_guided
