"""Parameters of fine-tuning, with their defaults and reasons.

Source: Kim, Kwon, Ye 2022 (DiffusionCLIP), sections 3.2 and 4; where its published code differs, the line says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import with_config

from retouch.errors import ConfigError

LAST = 999  # of the 1,000 timesteps that the networks are trained on


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class FinetuneParams:
    """How a network is fine-tuned to a text's domain.

    Raises:
        ConfigError: a value out of its range.
    """

    # Sampling.
    t_0: int = 401
    """Noise level: 200 for expressions, 401 for styles, 601 for another species; better where no n divides it."""
    n_inv: int = 40
    """Points of the inversion, computed once per image."""
    n_train: int = 6
    """Generation steps that are trained through, as published; memory grows in proportion."""
    n_test: int = 40
    """Generation steps of the contact sheet."""
    mode: Literal["full", "efficient"] = "full"
    """full: one update per image through all steps; efficient: one update per step, on that step's x0."""
    checkpointing: bool = False
    """Mode full: recompute activations in the backward pass; half the speed, a sixth of the memory."""

    # Length.
    images: int = 50
    """Rows to train on, from the manifest's first; 30 are enough (the authors' README)."""
    test_images: int = 8
    """Rows after those, shown on the contact sheet only."""
    iterations: int = 5
    """Passes over the images."""
    batch: int = 1
    """Images per batch: one update of the weights, or n_train updates in efficient mode."""
    learning_rate: float = 8e-6
    """From the authors' README; 2e-6 to 1e-5 at 256 px."""
    lr_factor: float = 1.3
    """Factor of the learning rate. The published code has 1.3 per iteration, the paper 1.2 every 50 updates
    (lr_every: 50)."""
    lr_every: int = 0
    """Batches between two such factors; 0 = once per iteration."""
    clip_norm: float = 0.0
    """Largest norm of the gradients; 0 = unlimited, as published."""

    # Losses.
    direction_weight: float = 3.0
    """Weight of the directional CLIP loss: an edit goes from the source's text towards the target's."""
    direction_form: Literal["log", "plain"] = "log"
    """log: -log((1 + cos) / 2) as published; plain: 1 - cos as in the paper."""
    global_weight: float = 0.0
    """Weight of the image's similarity to the target's text; on its own it invites adversarial images."""
    l1_weight: float = 0.3
    """Weight of the absolute difference to the source."""
    l1_inside: float = 1.0
    """Factor of l1_weight inside a row's mask; 0 = everything there may change."""
    identity_weight: float = 0.0
    """Weight of the face's identity by ArcFace; aligned faces only."""
    identity_parity: bool = False
    """The published efficient mode computes the identity loss on a detached image, which trains nothing; true does the
    same."""
    range_weight: float = 0.0
    """Weight of pixels outside [-1, 1]."""
    templates: Literal["imagenet", "none"] = "imagenet"
    """Texts in 79 phrasings, or as they are."""

    # What CLIP sees. One plain view was published; more views leave less room for patterns that fool it.
    views: int = 1
    """Warped views per image, the plain one first."""
    masked_share: float = 0.0
    """Share of the views that show only the inside of the mask, on grey."""
    resize: Literal["bicubic", "area"] = "bicubic"
    """How images are resized for CLIP."""
    antialias: bool = True
    """Of bicubic; false is what the original's environment computed."""

    # Files.
    save_every: int = 50
    """Batches between two checkpoints: at most this much is lost when the process is killed."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the finished file."""

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
            raise ConfigError("learning_rate and lr_factor must be above 0")
        if not 0 <= self.masked_share <= 1 or not 0 <= self.l1_inside <= 1:
            raise ConfigError("masked_share and l1_inside are shares; give 0 to 1")

    @property
    def masked_views(self) -> int:
        """Number of views that show only the inside of the mask."""
        return round(self.masked_share * self.views)
