"""Trains the judge on crops of drawn shapes, empty places, cut-off shapes, shapeless blobs and two-coloured shapes."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from retouch.models.embedded.data import in_chunks
from retouch.models.embedded.files import save_json, save_weights
from retouch.models.embedded.judge import JudgeNet, crop, judge_config
from retouch.models.embedded.scenes import (
    COLOURS,
    NONE,
    SHAPES,
    Placed,
    Point,
    Scene,
    make_shape,
    place_shape,
    random_ground,
    render,
    visible_colours,
)
from retouch.schema import Mask, Pixels
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

log = logging.getLogger(__name__)
FIRST_SEED: Final = 2_000_000  # above all seeds of the other networks


@dataclass(frozen=True)
class JudgeTraining:
    """Data and length of the judge's training."""

    crops: int = 40_000
    epochs: int = 3
    batch: int = 128
    learning_rate: float = 2e-3
    seed: int = 7


@dataclass(frozen=True)
class Example:
    """A place in an image, with its labels."""

    image: Pixels  # [32, 32, 3]
    mask: Mask  # [32, 32]
    shape: str
    colour: str
    kind: str  # shape, empty, cut, blob or two
    scene: Scene  # the scene before a second colour was mixed in


def judge_example(seed: int, size: int = 32) -> Example:
    """Draw one labelled place: 70 % shapes; the rest empty, cut off, shapeless or of two colours."""
    rng = np.random.default_rng((seed, 2))
    ground = random_ground(rng)
    half = rng.uniform(0.22, 0.35)
    x, y = rng.uniform(half + 0.01, 0.99 - half, size=2)
    spot = (float(x), float(y))
    kind = str(rng.choice(("shape", "empty", "cut", "blob", "two"), p=(0.7, 0.1, 0.07, 0.07, 0.06)))
    shape, colour = str(rng.choice(SHAPES)), str(rng.choice(visible_colours(ground)))
    radius = half * rng.uniform(0.6, 1.05)
    loose = max(0.0, 1.08 * half - radius)
    centre = (spot[0] + rng.uniform(-loose, loose), spot[1] + rng.uniform(-loose, loose))
    item = make_shape(rng, shape, colour, centre, radius)
    if kind == "blob":
        item = replace(item, outline=_blob(rng))
    if kind == "cut":
        item = replace(item, centre=_outside(rng, spot, half, radius))
    placed = [] if kind == "empty" else [item]
    other = place_shape(rng, ground, [*placed, Placed("square", "red", (0, 0, 0), spot, half * 1.1)], largest=0.2)
    shown = [*placed, other] if other and rng.random() < 0.3 else placed
    scene = render(ground, shown, size)
    image = scene.image
    if kind == "two":
        second = str(rng.choice([name for name in visible_colours(ground) if name != colour]))
        image = _two_coloured(rng, image, render(ground, [replace(item, rgb=COLOURS[second])], size).image, centre)
    mask = np.zeros((size, size), dtype=bool)
    x0, y0 = (round(size * (at - half)) for at in spot)
    mask[max(y0, 0) : y0 + round(2 * half * size), max(x0, 0) : x0 + round(2 * half * size)] = True
    return Example(image, mask, *_labels(kind, shape, colour), kind, scene)


def train_judge(out: Path, device: str, options: JudgeTraining) -> float:
    """Train, save and return the accuracy on 2,000 other crops (shape and colour both right)."""
    torch.manual_seed(options.seed)
    crops, shapes, colours = (part.to(device) for part in judge_crops(options.crops, FIRST_SEED))
    config = judge_config()
    net = JudgeNet(config["shapes"], config["colours"], config["width"]).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), options.learning_rate, weight_decay=0.02)
    steps = options.epochs * (len(crops) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps)
    for step in range(steps):
        picked = torch.randint(len(crops), (options.batch,), device=device)
        by_shape, by_colour = net(_disturbed(crops[picked]))
        loss = F.cross_entropy(by_shape, shapes[picked]) + F.cross_entropy(by_colour, colours[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info("judge step %d of %d loss %.4f", step, steps, loss.item())
    score = accuracy(net.eval(), *(part.to(device) for part in judge_crops(2000, FIRST_SEED + 1_000_000)))
    log.info("judge accuracy %.4f", score)
    save_json(config, out / "judge.json")
    save_weights(net, out / "judge.safetensors")
    return score


@torch.no_grad()
def accuracy(net: JudgeNet, crops: Tensor, shapes: Tensor, colours: Tensor) -> float:
    """Return the share of crops whose shape and colour are both right."""
    by_shape, by_colour = net(crops)
    right = (by_shape.argmax(1) == shapes) & (by_colour.argmax(1) == colours)
    return float(right.float().mean())


def judge_crops(count: int, first_seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return crops [N, 3, 32, 32] in [-1, 1] with the indices of their shapes and colours [N]."""
    chunks = in_chunks(_crop_chunk, count, first_seed)
    crops, shapes, colours = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
    return torch.from_numpy(crops), torch.from_numpy(shapes), torch.from_numpy(colours)


def _crop_chunk(first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    examples = [judge_example(seed) for seed in range(first, first + count)]
    crops = torch.cat([crop(example.image, example.mask) for example in examples]).numpy()
    shapes = np.array([(*SHAPES, NONE).index(example.shape) for example in examples])
    colours = np.array([(*COLOURS, NONE).index(example.colour) for example in examples])
    return crops, shapes, colours


def _labels(kind: str, shape: str, colour: str) -> tuple[str, str]:
    if kind in ("empty", "cut"):
        return NONE, NONE
    return NONE if kind == "blob" else shape, NONE if kind == "two" else colour


def _blob(rng: np.random.Generator) -> tuple[Point, ...]:
    """Return an irregular outline that is none of the shapes."""
    radii = rng.uniform(0.25, 1.1, size=int(rng.integers(5, 9)))
    angles = np.sort(rng.uniform(0, 2 * math.pi, size=len(radii)))
    return tuple((float(r * math.cos(a)), float(r * math.sin(a))) for r, a in zip(radii, angles, strict=True))


def _outside(rng: np.random.Generator, spot: Point, half: float, radius: float) -> Point:
    """Return a centre from which at most the shape's rim reaches into the place."""
    away = half + radius * rng.uniform(0.55, 1.0)
    sideways = rng.uniform(-half, half)
    dx, dy = (away, sideways) if rng.random() < 0.5 else (sideways, away)
    sign = rng.choice((-1.0, 1.0))
    return float(spot[0] + sign * dx), float(spot[1] + sign * dy)


def _two_coloured(rng: np.random.Generator, first: Pixels, second: Pixels, centre: Point) -> Pixels:
    """Return one image on one side of a random line through a shape's centre and another image on the other side."""
    y, x = (np.mgrid[0 : len(first), 0 : len(first)] + 0.5) / len(first)
    angle = rng.uniform(0, 2 * math.pi)
    side = (x - centre[0]) * math.cos(angle) + (y - centre[1]) * math.sin(angle) > 0
    mixed: Pixels = np.where(side[..., None], first, second)
    return mixed


def _disturbed(crops: Tensor) -> Tensor:
    """Return crops with slight noise, half of them blurred, because networks' images are less clean than drawings."""
    noisy = crops + 0.08 * torch.rand(len(crops), 1, 1, 1, device=crops.device) * torch.randn_like(crops)
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]], device=crops.device) / 16
    blurred = F.conv2d(F.pad(noisy, (1, 1, 1, 1), mode="replicate"), kernel.repeat(3, 1, 1, 1), groups=3)
    return torch.where(torch.rand(len(crops), 1, 1, 1, device=crops.device) < 0.5, blurred, noisy)
