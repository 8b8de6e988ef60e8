"""Measures the shipped domains on held-out scenes: ``python -m embedded_models.evaluate_domains [--rows 100]``.

The judge classifies shape and colour and the ground's pixels its colour; the CLIP that the networks were tuned with is
not used. Prints tables; ``--sheet FILE`` draws sources, reconstructions and translations.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from retouch.models.embedded.data import to_pixels, to_tensor
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.judge import JudgeNet, load_judge
from retouch.models.embedded.scenes import GROUNDS, HELD_OUT, TUNING, Scene, draw_scene
from retouch.models.unet import Network, load_unet
from retouch.schema import Mask, Pixels
from retouch.training.finetune.trainer import invert, translate
from retouch.training.plots import contact_sheet
from torch import Tensor

from embedded_models.domains import DOMAINS, grown, only, scenes

T_0: Final = 500  # as in jobs/finetune.yaml and jobs/translate.yaml
STEPS: Final = 40
ATTRIBUTES: Final = ("shape", "colour", "ground")
CHANGES: Final = {"blue": ("colour", "blue"), "green": ("colour", "green"), "pink": ("ground", "pink")}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m embedded_models.evaluate_domains", description=__doc__)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--weights", type=Path, default=SHIPPED, help="folder of unet and judge")
    parser.add_argument("--domains", type=Path, help="folder of NAME.safetensors, instead of the shipped ones")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tuning", action="store_true", help="use tuning seeds, not those of the figures")
    parser.add_argument("--no-curve", action="store_true", help="skip the curve of reconstruction errors")
    parser.add_argument("--sheet", type=Path, help="write a PNG of 12 scenes per domain")
    given = parser.parse_args()
    first = TUNING if given.tuning else HELD_OUT
    source = load_unet(str(given.weights / "unet.safetensors"), given.device)
    if not given.no_curve:
        print(curve_table(reconstruction(source, given.rows, first, given.device), given.rows))
    print("| domain | target | shape | colour | ground | all three |\n|---|---|---|---|---|---|")
    sheet: list[Pixels] = []
    for name in DOMAINS:
        folder = given.domains or given.weights
        if not (folder / f"{name}.safetensors").is_file():
            continue
        tuned = load_unet(str(folder / f"{name}.safetensors"), given.device)
        work = [scene for _, scene in islice(scenes(first, DOMAINS[name].holds), given.rows)]
        rows = edited(source, tuned, work, given.device)
        print(line(name, shares(name, work, rows[-1], load_judge(given.weights).to(given.device))), flush=True)
        sheet += [row[:12] for row in rows]
    if given.sheet:
        given.sheet.write_bytes(contact_sheet(sheet))


def reconstruction(source: Network, rows: int, first: int, device: str) -> dict[int, tuple[float, float]]:
    """Return mean and worst row's absolute error in [-1, 1] after inversion and generation, by number of steps."""
    x0 = to_tensor(np.stack([draw_scene(first + i).image for i in range(rows)])).to(device)
    found = {}
    for steps in (6, 10, 20, 40, 80):
        again = translate(source, invert(source, x0, T_0, steps), T_0, steps)
        errors = (again - x0).abs().flatten(1).mean(dim=1)
        found[steps] = (float(errors.mean()), float(errors.max()))
    return found


def curve_table(curve: Mapping[int, tuple[float, float]], rows: int) -> str:
    """Return the curve of reconstruction errors as Markdown."""
    lines = [f"| steps each way, t_0 {T_0}, {rows} scenes | mean absolute error | worst scene |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {n} | {mean:.4f} | {worst:.4f} |" for n, (mean, worst) in curve.items())])


def edited(
    source: Network, tuned: Network, work: Sequence[Scene], device: str, steps: int = STEPS
) -> tuple[Pixels, Pixels, Pixels]:
    """Return scenes, their reconstructions and their translations, each [N,S,S,3]."""
    x0: Tensor = to_tensor(np.stack([scene.image for scene in work])).to(device)
    latent = invert(source, x0, T_0, steps)
    again, changed = (to_pixels(translate(net, latent, T_0, steps)) for net in (source, tuned))
    return to_pixels(x0), again, changed


def shares(name: str, work: Sequence[Scene], images: Pixels, judge: JudgeNet) -> dict[str, float]:
    """Return the share of scenes whose attribute is the target's, or unchanged if the domain does not change it."""
    changed, target = CHANGES[name]
    masks = np.stack([only(scene).mask for scene in work])
    verdicts = judge.judge(images, masks)
    hits: list[dict[str, bool]] = []
    for scene, image, (shape, colour) in zip(work, images, verdicts, strict=True):
        wanted = {"shape": only(scene).shape, "colour": only(scene).colour, "ground": scene.ground, changed: target}
        seen = {"shape": shape, "colour": colour, "ground": ground_of(image, only(scene).mask)}
        hits.append({attribute: seen[attribute] == wanted[attribute] for attribute in ATTRIBUTES})
    found = {attribute: float(np.mean([hit[attribute] for hit in hits])) for attribute in ATTRIBUTES}
    return {"target": found[changed], **found, "all": float(np.mean([all(hit.values()) for hit in hits]))}


def ground_of(image: Pixels, shape: Mask) -> str:
    """Return the ground whose colour is nearest to the median of the pixels more than 2 px from the shape."""
    median = np.median(image[~grown(shape, 2)], axis=0)
    return min(GROUNDS, key=lambda name: float(np.linalg.norm(median - np.asarray(GROUNDS[name]))))


def line(name: str, found: Mapping[str, float]) -> str:
    """Return one row of the table."""
    changed, target = CHANGES[name]
    values = " | ".join(f"{found[attribute]:.0%}" for attribute in (*ATTRIBUTES, "all"))
    return f"| {name}: {changed} becomes {target} | {found['target']:.0%} | {values} |"


if __name__ == "__main__":
    main()
