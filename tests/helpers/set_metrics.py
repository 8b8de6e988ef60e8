"""A set metric without networks that counts its calls: ``tests.helpers.set_metrics:Colour``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
from retouch.errors import ConfigError, EditError
from retouch.metrics.frechet import Moments, frechet_distance, merged
from retouch.plugins import State
from retouch.schema import Pixels


class Colour:
    """Frechet distance of mean colours; refuses images whose first pixel is black."""

    roles: ClassVar[frozenset[str]] = frozenset()
    compares: ClassVar[bool] = True
    seen: ClassVar[list[Pixels]] = []  # images whose features were computed
    fits: ClassVar[list[int]] = []

    def __init__(self, gain: float) -> None:
        self.gain = gain

    @property
    def id(self) -> Mapping[str, str]:
        return {"model": "mean colour", "preprocessing": "none"}

    @classmethod
    def load(cls, weights: Mapping[str, str], device: str, gain: float = 1.0) -> Self:
        return cls(gain)

    def features(self, image: Pixels) -> np.ndarray:
        if not image[0, 0].any():
            raise EditError("the image's first pixel is black")
        Colour.seen.append(image)
        return (image.reshape(-1, 3).mean(0) * self.gain).astype(np.float32)

    def state(self, features: np.ndarray) -> State:
        return Moments.of(features).state()

    def merge(self, states: Sequence[State]) -> State:
        return merged(states)

    def fit(self, state: State) -> State:
        Colour.fits.append(1)
        return state

    def reduce(self, state: State, reference: State | None) -> Mapping[str, float]:
        if reference is None:
            raise ConfigError("colour needs a reference")
        return {"colour": frechet_distance(Moments.from_state(state), Moments.from_state(reference))}


class Count(Colour):
    """Compares nothing."""

    compares: ClassVar[bool] = False

    def reduce(self, state: State, reference: State | None) -> Mapping[str, float]:
        return {"count": float(state["count"][0])}
