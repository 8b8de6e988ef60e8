"""Pools of captioned training examples: scenes with a mask, and in numbers what is inside and around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from retouch.models.embedded.data import in_chunks
from retouch.models.embedded.scenes import (
    COLOURS,
    GROUNDS,
    SHAPES,
    SIZE,
    TEXTURES,
    Placed,
    Scene,
    make_shape,
    place_shape,
    random_ground,
    render,
    visible_colours,
)
from retouch.schema import Mask, Pixels

from embedded_models.captions import ground_caption, object_caption, scene_caption
from embedded_models.exemplar_pools import Pool
from embedded_models.exemplars import TIGHT, Drawn, loose_mask, loose_scene, rounded_box, tight_scene

EMPTY: Final = 0.15  # share of examples whose mask holds no object
NOTHING: Final = -1
Numbers = npt.NDArray[np.int8]
Words = tuple[str, str]  # shape and colour


@dataclass(frozen=True)
class Captioned(Pool):
    """Training examples as arrays."""

    image: Pixels  # [N, S, S, 3]
    mask: Mask  # [N, S, S], True = edit
    things: Numbers  # [N, 2, 2] shape and colour of what is in the mask and of what is elsewhere, or NOTHING
    ground: Numbers  # [N, 2] ground and texture
    whole: npt.NDArray[np.bool_]  # [N], False if the image shows rims of what the caption does not name

    def __len__(self) -> int:
        return len(self.image)

    def place_caption(self, rng: np.random.Generator, row: int) -> str:
        """Return a caption of what is in the mask."""
        inside = self._named(row)[0]
        return (
            ground_caption(rng, *self._ground(row))
            if inside is None
            else object_caption(rng, *inside, *self._ground(row))
        )

    def scene_caption(self, rng: np.random.Generator, row: int) -> str:
        """Return a caption of the whole scene."""
        return scene_caption(rng, [each for each in self._named(row) if each is not None], *self._ground(row))

    def _named(self, row: int) -> list[Words | None]:
        shapes, colours = list(SHAPES), list(COLOURS)
        return [None if shape == NOTHING else (shapes[shape], colours[colour]) for shape, colour in self.things[row]]

    def _ground(self, row: int) -> Words:
        ground, texture = self.ground[row]
        return list(GROUNDS)[ground], TEXTURES[texture]


def captioned_pool(count: int, first_seed: int, cache: Path | None = None, workers: int = 2) -> Captioned:
    """Return the examples of consecutive seeds, cached in ``cache`` (.npz) if given."""
    if cache is not None and cache.exists():
        stored = Captioned.load(cache)
        if len(stored) == count:
            return stored
    drawn = Captioned.joined(in_chunks(_examples, count, first_seed, workers))
    if cache is not None:
        drawn.save(cache)
    return drawn


def captioned_example(seed: int, size: int = SIZE) -> tuple[Drawn, Mask]:
    """Return the example of a seed: a scene whose mask is filled by its first object, lies around it, or is empty."""
    rng = np.random.default_rng((seed, 9))
    if rng.random() < EMPTY:
        drawn = _empty_place(rng, size)
    else:
        drawn = tight_scene(rng, size) if rng.random() < TIGHT else loose_scene(rng, size)
    mask = loose_mask(rng, drawn.scene.objects[0].box, size) if drawn.mask is None else drawn.mask
    return drawn, mask


def _empty_place(rng: np.random.Generator, size: int) -> Drawn:
    """Draw a mask over bare ground; half of the scenes have an object elsewhere, some show a removed one's rim."""
    ground = random_ground(rng)
    half = float(rng.uniform(0.2, 0.35))
    x, y = (float(at) for at in rng.uniform(half + 0.01, 0.99 - half, size=2))
    reserved = Placed("square", "red", (0, 0, 0), (x, y), half * 1.1)
    other = place_shape(rng, ground, [reserved], largest=0.25) if rng.random() < 0.5 else None
    others = [other] if other else []
    scene = render(ground, others, size)
    mask = rounded_box(rng, (x, y), half, size)
    image = scene.image
    if rng.random() < 0.3:
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(visible_colours(ground)))
        before = make_shape(rng, shape, colour, (x, y), half * rng.uniform(0.8, 1.0))
        image = np.where(mask[..., None], image, render(ground, [before, *others], size).image)
    return Drawn(image, mask, scene)


def _examples(first: int, count: int) -> Captioned:
    drawn = [captioned_example(seed) for seed in range(first, first + count)]
    return Captioned(
        np.stack([each.image for each, _ in drawn]),
        np.stack([mask for _, mask in drawn]),
        np.array([_things(each.scene, mask) for each, mask in drawn], dtype=np.int8),
        np.array(
            [(list(GROUNDS).index(each.scene.ground), TEXTURES.index(each.scene.texture)) for each, _ in drawn],
            dtype=np.int8,
        ),
        np.array([np.array_equal(each.image, each.scene.image) for each, _ in drawn]),
    )


def _things(scene: Scene, mask: Mask) -> list[tuple[int, int]]:
    """Return shape and colour, as numbers, of the object under the mask and of the other one."""
    numbers = [(SHAPES.index(item.shape), list(COLOURS).index(item.colour)) for item in scene.objects]
    nothing = (NOTHING, NOTHING)
    if not numbers or scene.objects[0].mask[mask].sum() < scene.objects[0].mask.sum() / 2:  # bare ground in the mask
        numbers.insert(0, nothing)
    return [*numbers, nothing][:2]
