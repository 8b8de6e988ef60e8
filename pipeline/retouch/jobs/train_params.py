"""Parameters of exemplar training, with their defaults and reasons.

Source: Yang et al. 2022 (Paint by Example), sections 3 and 4.1; where its published code differs, the line says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from retouch.errors import ConfigError


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class TrainParams:
    """How a UNet learns to paint exemplars into holes.

    Raises:
        ConfigError: a value out of its range.
    """

    # Length and speed.
    steps: int = 100_000
    """Updates; after raising it, the training resumes from the last checkpoint."""
    batch: int = 4
    """Images per worker and pass."""
    accumulate: int = 1
    """Passes per update; batch 4 on 64 workers, as published, equals batch 4 x 16 on 4 workers."""
    learning_rate: float = 1e-5
    """Not scaled by the number of workers, as published."""
    warmup: int = 10_000
    """Updates during which the rate rises from a millionth of its value."""
    weight_decay: float = 0.01
    """AdamW's own default, as published."""
    clip_norm: float = 0.0
    """Largest norm of the gradients; 0 = unlimited, as published."""
    ema: float = 0.0
    """Decay of the averaged weights, which are then the ones written; 0 = no averaging, as published."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of UNet and encoder; weights and autoencoder stay float32."""
    checkpointing: bool = False
    """Recompute the UNet's activations in the backward pass: less memory, a third slower."""
    save_every: int = 1000
    """Updates between two checkpoints: at most this much is lost when a worker is killed."""

    # Initial weights.
    prior: Literal["weights", "none"] = "weights"
    """none: UNet, mapper and unconditional vector start from random numbers, only autoencoder and image tower from the
    weights; the paper's ablation without the image prior."""

    # What the UNet sees of the exemplar.
    tokens: Literal["class", "all"] = "class"
    """all: the paper's ablation without the bottleneck."""
    condition_drop: float = 0.2
    """Share of images whose condition is the unconditional vector; 0: the ablation without guidance."""
    drop: Literal["sample", "batch"] = "sample"
    """sample: drawn per image, as the paper says; batch: the published code draws once for all images of a pass."""
    augmentation: bool = True
    """Flip, turn, blur and warp the reference; false: the ablation, which learns to copy."""
    reference_pad: int = 10
    """Pixels per side that the reference shows around its box."""

    # Where the hole is.
    min_area: float = 0.02
    """Smallest box, as a share of the image; smaller ones show nothing at 512 px, and small masks stay unlearned."""
    max_area: float = 0.8
    """Largest box; larger ones leave no surroundings."""
    arbitrary_mask_percent: float = 0.5
    """Share of holes in a free shape; the others are boxes."""
    bezier: Literal["published", "paper"] = "published"
    """Outline of free shapes. published: 18 points per side, without those that repeat a coordinate, moved by -jitter
    to +jitter; paper: 20 points per side, each moved by 1 to jitter."""
    jitter: int = 5
    """Pixels of the original image."""

    image_size: int = 0
    """Pixels per side; 0 = the weights' own."""
    antialias: bool = True
    """When an image is made smaller; false is what the original's environment computed."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("warmup", "weight_decay", "clip_norm", "reference_pad", "image_size"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("condition_drop", "arbitrary_mask_percent"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a share, 0 to 1")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}; give more than 0")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}; give 0 (none) or a decay below 1, such as 0.9999")
        if not 0 <= self.min_area < self.max_area <= 1:
            raise ConfigError(f"boxes of {self.min_area} to {self.max_area} of an image: give 0 <= min_area < max_area")
        if self.jitter < 0 or (self.bezier == "paper" and self.jitter < 1):
            raise ConfigError(f"jitter is {self.jitter}; give 0 or more pixels, 1 or more with bezier: paper")
