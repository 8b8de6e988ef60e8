"""Drawings of coloured shapes on plain grounds, with exact masks and captions, each from a seed.

Geometry is in fractions of the side, so one seed is one scene at any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from retouch.schema import Mask, Pixels

Rgb = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: Final[dict[str, Rgb]] = {
    "red": (214, 34, 40),
    "green": (36, 160, 62),
    "blue": (38, 72, 214),
    "yellow": (248, 222, 44),
    "purple": (146, 44, 182),
    "orange": (250, 134, 22),
}
GROUNDS: Final[dict[str, Rgb]] = {
    "white": (236, 236, 236),
    "gray": (140, 140, 140),
    "black": (26, 26, 26),
    "pink": (240, 186, 200),
    "brown": (104, 76, 58),
}
SHAPES: Final = ("circle", "square", "triangle", "cross")
TEXTURES: Final = ("plain", "shaded", "striped")
NONE: Final = "none"

SIZE: Final = 32  # the networks' side in pixels
SUPERSAMPLE: Final = 4  # drawn at four times the side, then box-averaged: edges are anti-aliased
MIN_CONTRAST: Final = 120.0  # Euclidean RGB distance under which a shape fades into its ground
HELD_OUT: Final = 10_000_000  # seeds from here on are never drawn in training
TUNING: Final = 5_000_000  # seeds from here to HELD_OUT choose parameters; the final figures never see them


@dataclass(frozen=True)
class Placed:
    """One shape: centre and radius in fractions of the side, turn in radians.

    ``outline``, in units of the radius, replaces the corners of the named shape.
    """

    shape: str
    colour: str
    rgb: Rgb
    centre: Point
    radius: float
    turn: float = 0.0
    outline: tuple[Point, ...] = ()


@dataclass(frozen=True)
class SceneObject:
    """A drawn shape. ``mask`` [S, S] covers each pixel it touches; ``box`` is x0, y0, x1, y1, end exclusive."""

    shape: str
    colour: str
    box: tuple[int, int, int, int]
    mask: Mask


@dataclass(frozen=True)
class Scene:
    """A drawing with what is in it."""

    image: Pixels  # [S, S, 3] uint8
    objects: tuple[SceneObject, ...]
    ground: str
    texture: str
    caption: str


@dataclass(frozen=True)
class EditTask:
    """A source scene and what to draw into its mask."""

    scene: Scene
    mask: Mask  # [S, S] bool, True = edit
    prompt: str
    shape: str
    colour: str


@dataclass(frozen=True)
class Ground:
    """A background: colour, texture and the texture's own numbers."""

    name: str
    texture: str
    rgb: Rgb
    angle: float  # radians
    period: float  # fraction of the side
    depth: float  # half the difference between its tones, 0..255


def draw_scene(seed: int, size: int = SIZE, count: int | None = None) -> Scene:
    """Draw the scene of a seed with ``count`` shapes (None: 0 to 2, drawn from the seed)."""
    rng = np.random.default_rng(seed)
    ground = random_ground(rng)
    wanted = int(rng.choice(3, p=(0.06, 0.76, 0.18))) if count is None else count
    placed: list[Placed] = []
    for _ in range(wanted):
        extra = place_shape(rng, ground, placed, largest=0.31 if wanted == 1 else 0.24)
        placed.extend([extra] if extra else [])
    return render(ground, placed, size)


def edit_task(seed: int, size: int = SIZE) -> EditTask:
    """Draw the editing task of a seed: a free place, a place next to a shape, or a place covered by a shape."""
    rng = np.random.default_rng((seed, 1))
    ground = random_ground(rng)
    half = rng.uniform(0.24, 0.34)  # a mask of about 15 to 22 px at 32
    x, y = rng.uniform(half + 0.02, 0.98 - half, size=2)
    spot = (float(x), float(y))
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(visible_colours(ground)))
    placed = _already_there(rng, ground, spot, half, (shape, colour))
    mask = _edit_mask(rng, spot, half, size)
    return EditTask(render(ground, placed, size), mask, object_prompt(shape, colour), shape, colour)


def object_prompt(shape: str, colour: str) -> str:
    """Return the prompt for one shape."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def parse_prompt(prompt: str) -> tuple[str, str]:
    """Return the shape and colour that a prompt asks for, ``none`` for what it does not name."""
    words = prompt.lower().replace(",", " ").split()
    shape = next((word for word in words if word in SHAPES), NONE)
    return shape, next((word for word in words if word in COLOURS), NONE)


def ground_prompt(ground: str, texture: str) -> str:
    """Return the caption's words for a ground."""
    return f"a {texture} {ground} ground"


def visible_colours(ground: Ground) -> list[str]:
    """Return the colours that differ from a ground by at least ``MIN_CONTRAST``."""
    return [name for name, rgb in COLOURS.items() if math.dist(rgb, GROUNDS[ground.name]) >= MIN_CONTRAST]


def random_ground(rng: np.random.Generator) -> Ground:
    """Draw a ground of random colour and texture."""
    name, texture = str(rng.choice(list(GROUNDS))), str(rng.choice(TEXTURES, p=(0.45, 0.35, 0.2)))
    angle = float(rng.choice((0.0, math.pi / 2))) if texture == "striped" else rng.uniform(0, 2 * math.pi)
    return Ground(name, texture, _jitter(rng, GROUNDS[name]), angle, rng.uniform(0.2, 0.3), rng.uniform(10, 18))


def place_shape(
    rng: np.random.Generator, ground: Ground, others: Sequence[Placed], smallest: float = 0.19, largest: float = 0.31
) -> Placed | None:
    """Draw a random shape inside the image that touches no other one; None after 20 tries without room."""
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(visible_colours(ground)))
    for _ in range(20):
        radius = rng.uniform(smallest, largest)
        x, y = rng.uniform(radius + 0.02, 0.98 - radius, size=2)
        if all(math.dist((x, y), other.centre) > radius + other.radius + 0.04 for other in others):
            return make_shape(rng, shape, colour, (x, y), radius)
    return None


def make_shape(rng: np.random.Generator, shape: str, colour: str, centre: Point, radius: float) -> Placed:
    """Return a shape with a slight random turn and tint."""
    return Placed(shape, colour, _jitter(rng, COLOURS[colour]), centre, radius, rng.uniform(-0.12, 0.12))


def render(ground: Ground, placed: Sequence[Placed], size: int = SIZE) -> Scene:
    """Draw shapes on a ground."""
    side = size * SUPERSAMPLE
    canvas = Image.fromarray(_ground_pixels(ground, side))
    objects = []
    for item in placed:
        layer = Image.new("L", (side, side))
        _draw(ImageDraw.Draw(layer), item, side)
        canvas.paste(item.rgb, (0, 0), layer)
        mask = np.asarray(layer.reduce(SUPERSAMPLE)) > 0
        if mask.any():  # a shape wholly outside the image is not in the scene
            objects.append(SceneObject(item.shape, item.colour, bounding_box(mask), mask))
    image = np.asarray(canvas.reduce(SUPERSAMPLE))
    return Scene(image, tuple(objects), ground.name, ground.texture, _caption(ground, placed))


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """Return x0, y0, x1, y1 of a mask [H, W] that is not empty, end exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _caption(ground: Ground, placed: Sequence[Placed]) -> str:
    """``a red circle and a blue square on a striped gray ground``."""
    things = " and ".join(object_prompt(item.shape, item.colour) for item in placed)
    where = ground_prompt(ground.name, ground.texture)
    return f"{things} on {where}" if things else where


def _jitter(rng: np.random.Generator, rgb: Rgb, by: int = 8) -> Rgb:
    """Return a colour with each channel moved by at most ``by``."""
    red, green, blue = (int(value) for value in np.clip(np.add(rgb, rng.integers(-by, by + 1, size=3)), 0, 255))
    return red, green, blue


def _ground_pixels(ground: Ground, side: int) -> Pixels:
    """A ground [side, side, 3] uint8."""
    y, x = np.mgrid[0:side, 0:side] / side
    along = x * math.cos(ground.angle) + y * math.sin(ground.angle)
    tone = _TONES[ground.texture](x, y, along, ground.period)
    shaded = np.asarray(ground.rgb) + ground.depth * tone[..., None]
    return np.clip(shaded, 0, 255).astype(np.uint8)


Grid = npt.NDArray[np.float64]  # [side, side]
_TONES: Final[dict[str, Callable[[Grid, Grid, Grid, float], Grid]]] = {  # x, y, along, period to -1..1
    "plain": lambda x, y, along, period: np.zeros_like(x),
    "shaded": lambda x, y, along, period: 1.5 * (along - along.mean()),
    "striped": lambda x, y, along, period: np.sign(np.sin(2 * math.pi * along / period + 0.01)),
}


def _draw(draw: ImageDraw.ImageDraw, item: Placed, side: int) -> None:
    if item.outline:
        draw.polygon(_polygon(item, side, item.outline), fill=255)
    else:
        _OUTLINES[item.shape](draw, item, side)


def _polygon(item: Placed, side: int, corners: Sequence[Point]) -> list[Point]:
    """Corners in units of the radius, turned and moved to pixels."""
    cos, sin = math.cos(item.turn), math.sin(item.turn)
    (cx, cy), r = item.centre, item.radius
    return [(side * (cx + r * (x * cos - y * sin)), side * (cy + r * (x * sin + y * cos))) for x, y in corners]


def _circle(draw: ImageDraw.ImageDraw, item: Placed, side: int) -> None:
    (x, y), r = item.centre, 0.96 * item.radius
    draw.ellipse((side * (x - r), side * (y - r), side * (x + r), side * (y + r)), fill=255)


def _square(draw: ImageDraw.ImageDraw, item: Placed, side: int) -> None:
    a = 0.82
    draw.polygon(_polygon(item, side, ((-a, -a), (a, -a), (a, a), (-a, a))), fill=255)


def _triangle(draw: ImageDraw.ImageDraw, item: Placed, side: int) -> None:
    draw.polygon(_polygon(item, side, ((0.0, -0.95), (0.95, 0.8), (-0.95, 0.8))), fill=255)


def _cross(draw: ImageDraw.ImageDraw, item: Placed, side: int) -> None:
    a, b = 0.3, 0.95
    for corners in (((-a, -b), (a, -b), (a, b), (-a, b)), ((-b, -a), (b, -a), (b, a), (-b, a))):
        draw.polygon(_polygon(item, side, corners), fill=255)


_OUTLINES: Final[dict[str, Callable[[ImageDraw.ImageDraw, Placed, int], None]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}


def _already_there(
    rng: np.random.Generator, ground: Ground, spot: Point, half: float, wanted: tuple[str, str]
) -> list[Placed]:
    """Nothing (40 %), a shape elsewhere (30 %, where there is room) or another shape at the spot (30 %)."""
    kind = rng.choice(3, p=(0.4, 0.3, 0.3))
    if kind == 0:
        return []
    if kind == 1:
        reserved = Placed("square", "red", (0, 0, 0), spot, half * 1.1)
        other = place_shape(rng, ground, [reserved], largest=0.22)
        return [other] if other else []
    choices = [(s, c) for s in SHAPES for c in visible_colours(ground) if s != wanted[0] and c != wanted[1]]
    shape, colour = choices[int(rng.integers(len(choices)))]
    return [make_shape(rng, shape, colour, spot, half * rng.uniform(0.8, 0.95))]


def _edit_mask(rng: np.random.Generator, spot: Point, half: float, size: int) -> Mask:
    """A box, a box of another width than height, or a rounded blob around a spot; [size, size] bool."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    kind = int(rng.integers(3))
    wide, high = (half, half) if kind != 1 else half * rng.uniform(0.88, 1.0, size=2)
    dx, dy = np.abs(x - spot[0]) / wide, np.abs(y - spot[1]) / high
    power = 4.0 if kind == 2 else math.inf  # a superellipse of power 4 is a box with round corners
    inside = np.maximum(dx, dy) if power == math.inf else (dx**power + dy**power) ** (1 / power)
    mask: Mask = inside <= 1.0
    return mask
