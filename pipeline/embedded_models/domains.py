"""The domains of the drawn scenes: what each changes in a scene with one shape, and to which scenes it applies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np
from PIL import Image, ImageFilter
from retouch.models.embedded.scenes import Scene, SceneObject, draw_scene, object_prompt
from retouch.schema import Mask

LEARNED: Final = 3_000_000  # first seed of training scenes; the UNet saw others, and figures come from HELD_OUT on


@dataclass(frozen=True)
class Domain:
    """What a domain changes in a scene with one shape."""

    holds: Callable[[Scene], bool]  # whether a scene is of the source domain
    source: Callable[[Scene], str]
    target: Callable[[Scene], str]
    on_ground: bool = False  # the ground changes, else the shape

    def may_change(self, shape: SceneObject) -> Mask:
        """Return the pixels [S, S] that may change: the shape and 2 px around it, or all but the shape and 1 px."""
        return ~grown(shape.mask, 1) if self.on_ground else grown(shape.mask, 2)


def only(scene: Scene) -> SceneObject:
    """Return the one shape of a scene."""
    return scene.objects[0]


def on_ground(scene: Scene, ground: str) -> str:
    """Return a scene's caption with another ground."""
    return f"{object_prompt(only(scene).shape, only(scene).colour)} on a {scene.texture} {ground} ground"


DOMAINS: Final = {
    "blue": Domain(
        # On brown and gray a blue or green shape would have little contrast.
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
        # No scene has yellow on pink either: the contrast is too low.
        lambda scene: scene.ground == "white" and only(scene).colour != "yellow",
        lambda scene: on_ground(scene, "white"),
        lambda scene: on_ground(scene, "pink"),
        on_ground=True,
    ),
}


def scenes(first_seed: int, holds: Callable[[Scene], bool]) -> Iterator[tuple[int, Scene]]:
    """Yield seeds and scenes with one shape for which ``holds`` is true."""
    for seed in count(first_seed):
        scene = draw_scene(seed, count=1)
        if scene.objects and holds(scene):
            yield seed, scene


def in_all(scene: Scene) -> bool:
    """Return whether a scene is in every source domain: a red shape on white."""
    return all(domain.holds(scene) for domain in DOMAINS.values())


def grown(mask: Mask, by: int) -> Mask:
    """Return a mask [S, S] grown by ``by`` pixels."""
    large = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(2 * by + 1))
    bits: Mask = np.asarray(large) > 0
    return bits
