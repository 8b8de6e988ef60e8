"""Fine-tuning's knobs, their defaults and reasons. Knows no network, no image and no target.

Source: Kim, Kwon, Ye 2022 (DiffusionCLIP), sections 3.2 and 4; where its published code differs, the line says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from retouch.errors import ConfigError

LAST = 999  # of the 1,000 timesteps that the networks are trained on


@dataclass(frozen=True)
class FinetuneParams:
    """How a network is brought to a text's domain.

    Raises:
        ConfigError: a value out of its range.
    """

    # The walk.
    t_0: int = 401  # 200 for expressions, 401 for styles, 601 for another species; better where no n divides it
    n_inv: int = 40  # points of the inversion, computed once an image
    n_train: int = 6  # generation steps that are trained through: the published number; memory grows with it in full
    n_test: int = 40  # generation steps of the contact sheet
    mode: Literal["full", "efficient"] = "full"  # one update an image through all steps, or one a step on its own x0
    checkpointing: bool = False  # full: recompute activations on the way back; half the speed, a sixth of the memory

    # How long.
    images: int = 50  # of the manifest's rows, from the first; 30 serve (the authors' README)
    test_images: int = 8  # rows after those, shown on the contact sheet only
    iterations: int = 5  # passes over the images
    batch: int = 1  # images at once: one update of the weights, or n_train in efficient mode
    learning_rate: float = 8e-6  # the authors' README; 2e-6 to 1e-5 at 256 px
    # The published code lets the rate grow by 1.3 an iteration; the paper says 1.2 every 50 updates (lr_every: 50).
    lr_factor: float = 1.3
    lr_every: int = 0  # batches; 0 = once an iteration
    clip_norm: float = 0.0  # gradients' norm is cut to it; 0 = not at all, as published

    # What is asked for.
    direction_weight: float = 3.0  # an edit goes the way from the source's text to the target's
    direction_form: Literal["log", "plain"] = "log"  # -log((1 + cos) / 2) as published, or 1 - cos as in the paper
    global_weight: float = 0.0  # the image resembles the target's text; on its own it invites adversarial images
    l1_weight: float = 0.3  # the image stays near its source
    l1_inside: float = 1.0  # of that weight, inside a row's mask: 0 = there all may change
    identity_weight: float = 0.0  # the face stays the same, by ArcFace; aligned faces only
    # The published efficient mode takes the identity loss of a detached image: it moves no weight. True does the same.
    identity_parity: bool = False
    range_weight: float = 0.0  # holds pixels in [-1, 1]
    templates: Literal["imagenet", "none"] = "imagenet"  # texts in 79 phrasings, or as they are

    # How CLIP looks. One plain view is what was published; more of them leave less to patterns that fool it.
    views: int = 1  # warped views an image, the plain one first
    masked_share: float = 0.0  # of the views: those that show the mask's inside alone, on grey
    resize: Literal["bicubic", "area"] = "bicubic"  # to CLIP's size
    antialias: bool = True  # of bicubic; False is what the original's environment computed

    # How it is kept.
    save_every: int = 50  # batches between two saved states: what a kill costs
    dtype: Literal["float32", "float16"] = "float32"  # of the finished file

    def __post_init__(self) -> None:
        if not 2 <= self.t_0 <= LAST:
            raise ConfigError(f"t_0 is {self.t_0}; give a timestep of 2 to {LAST}, 301 to 601 as published")
        for name in ("n_inv", "n_train", "n_test"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 2 or more points")
        for name in ("images", "iterations", "batch", "views", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("test_images", "lr_every", "clip_norm"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("direction", "global", "l1", "identity", "range"):
            if getattr(self, f"{name}_weight") < 0:
                raise ConfigError(f"{name}_weight is negative, which would push away; give 0 or more")
        if self.direction_weight == self.global_weight == 0:
            raise ConfigError("direction_weight and global_weight are 0: nothing draws to the target; give one of them")
        if self.learning_rate <= 0 or self.lr_factor <= 0:
            raise ConfigError("learning_rate and lr_factor are to be more than 0")
        if not 0 <= self.masked_share <= 1 or not 0 <= self.l1_inside <= 1:
            raise ConfigError("masked_share and l1_inside are shares; give 0 to 1")

    @property
    def masked_views(self) -> int:
        """How many of the views show the mask's inside alone."""
        return round(self.masked_share * self.views)
