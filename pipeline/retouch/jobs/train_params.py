"""The training's knobs, their defaults and reasons. Knows no network, no image and no cluster.

Source: Yang et al. 2022 (Paint by Example), sections 3 and 4.1; where its published code differs, the line says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retouch.errors import ConfigError


@dataclass(frozen=True)
class TrainParams:
    """How a UNet learns to paint exemplars into holes.

    Raises:
        ConfigError: a value out of its range.
    """

    # How long and how fast.
    steps: int = 100_000  # updates; raising it later goes on from the last checkpoint
    batch: int = 4  # images a worker in one pass
    accumulate: int = 1  # passes an update; batch 4 on 64 workers, as published, is batch 4 x 16 on 4
    learning_rate: float = 1e-5  # not scaled by the number of workers, as published
    warmup: int = 10_000  # updates over which the rate rises from a millionth of itself
    weight_decay: float = 0.01  # AdamW's own default, as published
    clip_norm: float = 0.0  # gradients' norm is cut to it; 0 = not at all, as published
    ema: float = 0.0  # decay of averaged weights, which then are what is written; 0 = none, as published
    precision: Literal["float32", "bfloat16"] = "float32"  # of UNet and encoder; weights and autoencoder stay float32
    checkpointing: bool = False  # recompute the UNet's activations on the way back: less memory, a third slower
    save_every: int = 1000  # updates between two checkpoints: what a kill costs

    # What it starts from. none: UNet, mapper and unconditional vector from random numbers, only autoencoder and image
    # tower from the weights; the paper's ablation without the image prior.
    prior: Literal["weights", "none"] = "weights"

    # What the UNet is told of the exemplar.
    tokens: Literal["class", "all"] = "class"  # all: the paper's ablation without the bottleneck
    condition_drop: float = 0.2  # share whose condition is the unconditional vector; 0: the ablation without guidance
    # Each image for itself, as the paper says; the published code draws once for all images of a worker's pass.
    drop: Literal["sample", "batch"] = "sample"
    augmentation: bool = True  # of the reference: flip, turn, blur, warp; False: the ablation, which learns to copy
    reference_pad: int = 10  # pixels a side that the reference shows around its box

    # Where the hole is.
    min_area: float = 0.02  # of the image; smaller boxes show nothing at 512 px, and small masks stay unlearned
    max_area: float = 0.8  # larger ones leave nothing to go on
    arbitrary_mask_percent: float = 0.5  # share of holes in a free shape; the others are boxes
    # published: 18 points a side, those dropped that repeat a coordinate, moved by -jitter to +jitter; paper: 20 points
    # a side, each moved by 1 to jitter.
    bezier: Literal["published", "paper"] = "published"
    jitter: int = 5  # pixels of the original image

    image_size: int = 0  # pixels a side; 0 = the weights' own
    antialias: bool = True  # when an image is made smaller; False is what the original's environment computed

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
