"""The drawn world's domains: what each changes in a scene with one shape, and which scenes it can be asked of.

Knows neither networks nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np
from PIL import Image, ImageFilter
from retouch.models.embedded.scenes import Scene, SceneObject, draw_scene, object_prompt
from retouch.schema import Mask

LEARNED: Final = 3_000_000  # seeds from here on are learned from; the UNet saw others, figures come from HELD_OUT on


@dataclass(frozen=True)
class Domain:
    """What a domain changes in a scene with one shape."""

    holds: Callable[[Scene], bool]  # whether a scene is of the source domain
    source: Callable[[Scene], str]
    target: Callable[[Scene], str]
    on_ground: bool = False  # what changes is the ground, else the shape

    def may_change(self, shape: SceneObject) -> Mask:
        """The mask [S, S] of a scene's shape: the shape and two pixels around it, or all but it and one pixel."""
        return ~grown(shape.mask, 1) if self.on_ground else grown(shape.mask, 2)


def only(scene: Scene) -> SceneObject:
    """The one shape of a scene."""
    return scene.objects[0]


def on_ground(scene: Scene, ground: str) -> str:
    """A scene's caption with another ground."""
    return f"{object_prompt(only(scene).shape, only(scene).colour)} on a {scene.texture} {ground} ground"


DOMAINS: Final = {
    "blue": Domain(
        # On brown and gray a blue or green shape would hardly stand out.
        lambda scene: only(scene).colour == "red" and scene.ground not in ("brown", "gray"),
        lambda scene: object_prompt(only(scene).shape, "red"),
        lambda scene: object_prompt(only(scene).shape, "blue"),
    ),
    "green": Domain(
        lambda scene: only(scene).colour == "red" and scene.ground not in ("brown", "gray"),
        lambda scene: object_prompt(only(scene).shape, "red"),
        lambda scene: object_prompt(only(scene).shape, "green"),
    ),
    "pink": Domain(
        # Yellow, too, is not drawn on pink by anybody: the contrast is low.
        lambda scene: scene.ground == "white" and only(scene).colour != "yellow",
        lambda scene: on_ground(scene, "white"),
        lambda scene: on_ground(scene, "pink"),
        on_ground=True,
    ),
}


def scenes(first_seed: int, holds: Callable[[Scene], bool]) -> Iterator[tuple[int, Scene]]:
    """Seeds and scenes with one shape for which ``holds``."""
    for seed in count(first_seed):
        scene = draw_scene(seed, count=1)
        if scene.objects and holds(scene):
            yield seed, scene


def in_all(scene: Scene) -> bool:
    """Whether a scene is of every source domain: a red shape on white."""
    return all(domain.holds(scene) for domain in DOMAINS.values())


def grown(mask: Mask, by: int) -> Mask:
    """A mask [S, S] and ``by`` pixels around it."""
    large = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * by + 1))
    bits: Mask = np.asarray(large) > 0
    return bits
