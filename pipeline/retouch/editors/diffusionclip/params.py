"""Parameters of DiffusionCLIP, with their defaults and reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import with_config

from retouch.diffusion.mix_weights import check_weights
from retouch.editors.params import overridden
from retouch.errors import ConfigError

LAST = 999  # of the 1,000 timesteps that the networks are trained on


@with_config(use_attribute_docstrings=True)
@dataclass(frozen=True)
class Params:
    """How one image is translated.

    Raises:
        ConfigError: a value out of its range, or two that cannot go together.
    """

    # Sampling.
    t_0: int = 401
    """Noise level of the latent: 200 keeps nearly all, 600 lets shapes change; published as better where n does not
    divide it, hence 301, 401, 601."""
    n_inv: int = 40
    """Points of the inversion (n - 1 passes); 0 = every timestep; 200 for the closest reconstruction."""
    n_gen: int = 40
    """Passes of the generation; 6 already show what it will be."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """ddpm takes steps of one timestep: right with n_gen 0 only."""
    eta: float = 0.0
    """Of ddim's generation: 0 deterministic, 1 as noisy as ddpm; the inversion has none."""
    variance: Literal["range", "raw"] = "range"
    """How ddpm reads a learned variance: as such networks are trained, or as the published code does."""
    start: Literal["inversion", "noise"] = "inversion"
    """Start of the generation: the image's inversion, or the image with noise, which differs per seed."""
    repeats: int = 1
    """Start noise: number of generations in all; each result is noised and generated again."""

    # Networks.
    ratio: float = 1.0
    """Degree of change: 0 the source network (a reconstruction), 1 the tuned one; above 1: more of it."""
    networks: tuple[str, ...] = ()
    """Roles of the job's weights; empty: the role tuned. A row's own checkpoint comes first."""
    hybrid: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """{threshold: weights of networks}, in place of ratio."""

    # An image of another domain (a stroke painting, an anime face) is first brought into the source network's.
    purify: int = 0
    """Rounds of noising to t_0 and denoising by the source network; 8 or more are enough."""
    purify_steps: int = 6
    """DDIM steps per round, as published."""

    # The latent is optimised towards the prompt, in place of a tuned network; needs weights for ``clip``.
    optimise: int = 0
    """Adam steps on the latent, towards the prompt; replaces a tuned network and needs weights for clip."""
    n_train: int = 6
    """Generation steps that the gradient goes through."""
    latent_lr: float = 2e-2
    """Learning rate of the latent, as published."""
    clip_weight: float = 3.0
    """Weight of CLIP's loss, as published."""
    l1_weight: float = 1.0
    """Weight of the absolute difference to the source, as in the published example."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the networks; x stays float32."""
    compile: bool = False
    """torch.compile of the UNet: takes minutes at the start of each worker, for GPUs."""
    keep_networks: int = 4
    """Tuned networks that stay on the device, for all rows of the job: 0.5 GB each at 256 px, 2 GB at 512."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "networks", tuple(self.networks))
        object.__setattr__(self, "hybrid", _sorted_hybrid(self.hybrid))
        self._check_sampling()
        self._check_networks()
        self._check_modes()

    def _check_sampling(self) -> None:
        if not 2 <= self.t_0 <= LAST:
            raise ConfigError(f"t_0 is {self.t_0}; give a timestep of 2 to {LAST}, 301 to 601 as published")
        for name in ("n_inv", "n_gen", "purify_steps", "n_train"):
            if (n := getattr(self, name)) < 2 and n != 0:
                raise ConfigError(f"{name} is {n}; give 2 or more points, or 0 for every timestep")
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"eta is {self.eta}; give 0 (deterministic) to 1 (as noisy as ddpm)")

    def _check_networks(self) -> None:
        if self.keep_networks < 1:
            raise ConfigError(f"keep_networks is {self.keep_networks}; give 1 or more")
        if self.hybrid:
            check_weights(self.hybrid, max(len(self.networks), 1))
        elif len(self.networks) > 1:
            raise ConfigError(
                f"networks names {len(self.networks)}, but not how to mix them; give hybrid, as {{0: [0.5, 0.5]}}"
            )

    def _check_modes(self) -> None:
        for name in ("purify", "optimise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("clip_weight", "l1_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; a negative weight would push away: give 0 or more")
        if self.latent_lr <= 0:
            raise ConfigError(f"latent_lr is {self.latent_lr}; give more than 0")
        if self.repeats < 1:
            raise ConfigError(f"repeats is {self.repeats}; give 1 or more")
        if self.repeats > 1 and self.start != "noise":
            raise ConfigError(f"repeats is {self.repeats} but an inversion is the same every time; set start to noise")
        if self.optimise and (self.purify or self.start != "inversion"):
            raise ConfigError("optimise starts from the image's own inversion; set purify to 0 and start to inversion")

    def overridden(self, values: Mapping[str, Any]) -> Params:
        """Return these params with a row's own values.

        Raises:
            ConfigError: an unknown name, or a value out of its range.
        """
        return overridden(self, values)

    @property
    def needs(self) -> frozenset[str]:
        """Columns without which a row cannot be edited. A tuned network needs no prompt."""
        return frozenset({"prompt"} if self.optimise else ())

    @property
    def is_random(self) -> bool:
        """Whether the generation's steps draw noise."""
        return self.sampler == "ddpm" or self.eta > 0

    @property
    def needs_tuned(self) -> bool:
        """Whether a tuned network is used."""
        return not self.optimise and (bool(self.hybrid) or self.ratio != 0)


def _sorted_hybrid(weights_at: Mapping[Any, Sequence[Any]]) -> dict[int, tuple[float, ...]]:
    """Return the mapping with the highest threshold first: JSON does not keep the order of a mapping."""
    try:
        read = {int(threshold): tuple(float(weight) for weight in each) for threshold, each in weights_at.items()}
    except (TypeError, ValueError, AttributeError):
        raise ConfigError(f"hybrid is {weights_at!r}; give {{threshold: [weight of each network]}}") from None
    return dict(sorted(read.items(), reverse=True))
