"""Draws the training and test examples of exemplar editors: a scene, a mask, and a reference of the wanted object.

There are two kinds of reference. The *own* one is cropped from the scene itself, as it must be with photographs (Paint
by Example, section 4.1). The *other* one shows a new drawing of the same shape and colour on another ground, at another
size, angle and place, so that copying pixels never helps; only drawn scenes make this kind possible.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from retouch.models.embedded.scenes import (
    COLOURS,
    GROUNDS,
    MIN_CONTRAST,
    SHAPES,
    SIZE,
    Ground,
    Placed,
    Scene,
    edit_task,
    make_shape,
    place_shape,
    random_ground,
    render,
    visible_colours,
)
from retouch.schema import Mask, Pixels

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, end exclusive

PAD: Final = 2  # most pixels per side around the box of an own reference; the paper's 10 of 512, and one for edges
TURN: Final = 0.35  # radians, +-20 degrees as in the paper: more would make a square a diamond
WIDER: Final = 0.4  # of the free space on a side: the most by which a mask extends beyond its box
TIGHT: Final = 0.75  # share of pairs whose object fills the mask, as with users' masks


@dataclass(frozen=True)
class ExemplarTask:
    """A source scene, where to edit it, and what the reference shows."""

    scene: Scene
    mask: Mask  # [S, S] bool, True = edit
    exemplar: Pixels  # [S, S, 3]
    shape: str
    colour: str
    prompt: str  # shape and colour in words; read by the judge, not by exemplar editors


@dataclass(frozen=True)
class Drawn:
    """A drawn training scene, whose first object is the one to edit."""

    image: Pixels  # [S, S, 3]; the scene, and sometimes outside the mask the rim of an object that was replaced
    mask: Mask | None  # [S, S] bool, True = edit; None: to be made around the object's box
    scene: Scene


@dataclass(frozen=True)
class Pair:
    """One training example, whose scene is the expected output."""

    target: Pixels  # [S, S, 3]
    mask: Mask  # [S, S] bool, True = edit
    own: Pixels  # [S, S, 3], the reference cropped from the scene and augmented
    shape: str
    colour: str


def exemplar_task(seed: int, size: int = SIZE) -> ExemplarTask:
    """Return the exemplar edit of a seed: that of ``edit_task`` with a reference on another ground."""
    rng = np.random.default_rng((seed, 5))
    task = edit_task(seed, size)
    exemplar = other_reference(rng, task.shape, task.colour, without=task.scene.ground, size=size)
    return ExemplarTask(task.scene, task.mask, exemplar, task.shape, task.colour, task.prompt)


def training_pair(seed: int, size: int = SIZE) -> Pair:
    """Return the training example of a seed: mostly a mask that its object fills, else a box or blob around one."""
    rng = np.random.default_rng((seed, 6))
    drawn = tight_scene(rng, size) if rng.random() < TIGHT else loose_scene(rng, size)
    item = drawn.scene.objects[0]
    mask = loose_mask(rng, item.box, size) if drawn.mask is None else drawn.mask
    return Pair(drawn.image, mask, own_reference(rng, drawn.image, item.box, size), item.shape, item.colour)


def other_reference(
    rng: np.random.Generator, shape: str, colour: str, without: str | None = None, size: int = SIZE
) -> Pixels:
    """Draw an object of this shape and colour on a ground other than ``without``, cropped with a margin.

    Returns:
        [size, size, 3] uint8.
    """
    visible = [name for name, rgb in GROUNDS.items() if math.dist(COLOURS[colour], rgb) >= MIN_CONTRAST]
    name = str(rng.choice([ground for ground in visible if ground != without]))
    ground = random_ground(rng)
    tint = rng.integers(-8, 9, size=3)
    red, green, blue = (int(value) for value in np.clip(np.add(GROUNDS[name], tint), 0, 255))
    ground = replace(ground, name=name, rgb=(red, green, blue))
    radius = rng.uniform(0.2, 0.4)
    x, y = rng.uniform(radius + 0.02, 0.98 - radius, size=2)
    item = replace(make_shape(rng, shape, colour, (float(x), float(y)), radius), turn=rng.uniform(-TURN, TURN))
    side = 2 * size  # drawn larger than it is shown, because a crop from 32 px would be blurred
    left, top, right, bottom = (radius * rng.uniform(1.0, 1.4) for _ in range(4))
    window = (x - left, y - top, x + right, y + bottom)
    x0, y0, x1, y1 = (int(np.clip(round(side * at), 0, side)) for at in window)
    return _resized(render(ground, [item], side).image[y0:y1, x0:x1], size)


def own_reference(rng: np.random.Generator, image: Pixels, box: Box, size: int = SIZE) -> Pixels:
    """Return the box of an image [H, W, 3] as [size, size, 3], randomly padded, flipped, turned and blurred."""
    high, wide = image.shape[:2]
    left, top, right, bottom = (int(pad) for pad in rng.integers(0, PAD + 1, size=4))
    x0, y0, x1, y1 = max(box[0] - left, 0), max(box[1] - top, 0), min(box[2] + right, wide), min(box[3] + bottom, high)
    shown = Image.fromarray(_resized(image[y0:y1, x0:x1], size))
    if rng.random() < 0.5:
        shown = ImageOps.mirror(shown)
    if rng.random() < 0.5:
        shown = _turned(shown, math.degrees(rng.uniform(-TURN, TURN)))
    if rng.random() < 0.3:
        shown = shown.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0)))
    return np.asarray(shown)


def loose_mask(rng: np.random.Generator, box: Box, size: int = SIZE) -> Mask:
    """Return a randomly extended box, or a blob of four curves that bulge from the box towards it; [size, size]."""
    x0, y0, x1, y1 = box
    free = (x0, y0, size - x1, size - y1)
    left, top, right, bottom = (int(rng.integers(0, int(WIDER * space) + 1)) for space in free)
    outer = (x0 - left, y0 - top, x1 + right, y1 + bottom)
    mask = np.zeros((size, size), dtype=bool)
    if rng.random() < 0.5:
        mask[outer[1] : outer[3], outer[0] : outer[2]] = True
        return mask
    return _blob(box, outer, size)


def _blob(box: Box, outer: Box, size: int) -> Mask:
    """Return the inside of quadratic Beziers between the box's corners, with control points on the outer box."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = box, outer
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=float)
    control = np.array([(middle_x, v0), (u1, middle_y), (middle_x, v1), (u0, middle_y)], dtype=float)
    t = np.linspace(0.0, 1.0, 12)[:, None]
    curves = [
        (1 - t) ** 2 * start + 2 * t * (1 - t) * pull + t**2 * end
        for start, pull, end in zip(corners, control, np.roll(corners, -1, axis=0), strict=True)
    ]
    return _filled(np.concatenate(curves), size)


def _filled(outline: np.ndarray, size: int) -> Mask:
    """Return the pixels [size, size] whose centre is in a polygon [N, 2] of x, y (even-odd rule)."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5)[..., None]
    ax, ay = outline.T
    bx, by = np.roll(outline, -1, axis=0).T
    crosses = (ay > y) != (by > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (bx - ax) * (y - ay) / (by - ay) + ax
    inside: Mask = (np.count_nonzero(crosses & (x < at), axis=-1) % 2).astype(bool)
    return inside


def tight_scene(rng: np.random.Generator, size: int) -> Drawn:
    """Draw an object that fills a mask like those of ``edit_task``; sometimes it replaces another one."""
    ground = random_ground(rng)
    half = float(rng.uniform(0.23, 0.35))
    spot = tuple(float(at) for at in rng.uniform(half + 0.01, 0.99 - half, size=2))
    item = _visible(rng, ground, (spot[0], spot[1]), half * rng.uniform(0.72, 0.97))
    loose = 0.98 * half - item.radius
    item = replace(item, centre=(spot[0] + rng.uniform(-loose, loose), spot[1] + rng.uniform(-loose, loose)))
    other = place_shape(rng, ground, [replace(item, centre=(spot[0], spot[1]), radius=half * 1.1)], largest=0.22)
    others = [other] if other and rng.random() < 0.35 else []
    scene = render(ground, [item, *others], size)
    mask = rounded_box(rng, (spot[0], spot[1]), half, size)
    target = scene.image
    if rng.random() < 0.25:  # the replaced one's rim may show outside the mask, as with a tight user's mask
        before = _visible(rng, ground, (spot[0], spot[1]), half * rng.uniform(0.8, 1.0))
        target = np.where(mask[..., None], target, render(ground, [before, *others], size).image)
    return Drawn(target, mask, scene)


def loose_scene(rng: np.random.Generator, size: int) -> Drawn:
    """Draw an object anywhere, alone or next to another one."""
    ground = random_ground(rng)
    count = 1 if rng.random() < 0.7 else 2
    placed: list[Placed] = []
    for _ in range(count):
        extra = place_shape(rng, ground, placed, largest=0.33 if count == 1 else 0.25)
        placed.extend([extra] if extra else [])
    scene = render(ground, placed, size)
    return Drawn(scene.image, None, scene)


def _visible(rng: np.random.Generator, ground: Ground, centre: tuple[float, float], radius: float) -> Placed:
    """Return a random shape of a random colour that contrasts with the ground."""
    return make_shape(rng, str(rng.choice(SHAPES)), str(rng.choice(visible_colours(ground))), centre, float(radius))


def rounded_box(rng: np.random.Generator, spot: tuple[float, float], half: float, size: int) -> Mask:
    """Return a box around a spot, one in three with round corners."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    dx, dy = np.abs(x - spot[0]) / half, np.abs(y - spot[1]) / half
    mask: Mask = (dx**4 + dy**4 <= 1.0) if rng.random() < 1 / 3 else (np.maximum(dx, dy) <= 1.0)
    return mask


def _turned(image: Image.Image, degrees: float) -> Image.Image:
    """Return an image turned about its centre, with mirrored corners, because black ones would be a clue."""
    side = image.width
    tiled = np.pad(np.asarray(image), ((side // 2, side // 2), (side // 2, side // 2), (0, 0)), mode="reflect")
    turned = Image.fromarray(tiled).rotate(degrees, Image.Resampling.BILINEAR)
    return turned.crop((side // 2, side // 2, side // 2 + side, side // 2 + side))


def _resized(image: Pixels, size: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))
