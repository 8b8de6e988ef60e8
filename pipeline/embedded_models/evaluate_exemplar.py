"""Measures exemplar edits on held-out seeds: ``python -m embedded_models.evaluate_exemplar [--rows 200]``.

The judge classifies the edits; CLIP only ranks candidates by their similarity to the exemplar. Prints tables, and JSON
with ``--json FILE``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from retouch.editors.paint_by_example.editor import PaintByExample
from retouch.models.embedded.data import to_pixels, to_tensor
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.judge import load_judge
from retouch.models.embedded.scenes import HELD_OUT, TUNING, bounding_box
from retouch.schema import Batch, Pixels
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from embedded_models.exemplars import ExemplarTask, exemplar_task, other_reference, training_pair
from embedded_models.train_vae import encode, load_vae

# Chosen on tuning seeds (``--tuning``), never on those of the figures.
PARAMS: Final[dict[str, Any]] = {"steps": 20, "sampler": "ddim", "guidance_scale": 2.0}
SCALES: Final = (1.0, 2.0, 3.0, 5.0, 7.0)
SAMPLERS: Final = ("ddim", "plms", "dpm++", "unipc")
STEPS: Final = (4, 6, 10, 20)
FINE: Final[dict[str, Any]] = {"sampler": "ddim", "steps": 200}  # reference for fewer steps
WITHOUT_EXEMPLAR: Final = 0.0  # eps_u + 0 (eps_c - eps_u): the unconditional vector alone
ROLES: Final = ("exemplar_vae", "exemplar_unet", "exemplar_encoder", "clip")


@dataclass(frozen=True)
class Edits:
    """The edits of N tasks with C candidates each."""

    images: Pixels  # [N, C, S, S, 3], the source's pixels outside the mask
    shape: np.ndarray  # [N, C] bool, by the judge
    colour: np.ndarray  # [N, C] bool
    distance: np.ndarray  # [N, C] CLIP's distance from the exemplar

    def figures(self) -> dict[str, float]:
        """Return shares of rows whose mask holds the exemplar's shape and colour, and CLIP's similarity."""
        both, first = self.shape & self.colour, self.distance.argmin(axis=1)[:, None]
        return {
            "one": float(both.mean()),  # over all candidates
            "best": float(np.take_along_axis(both, first, 1).mean()),  # for the candidate that CLIP ranks first
            "any": float(both.any(axis=1).mean()),
            "shape": float(self.shape.mean()),
            "colour": float(self.colour.mean()),
            "region clip": float(100 * (1 - self.distance).mean()),  # over all candidates
        }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m embedded_models.evaluate_exemplar", description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--shipped", type=Path, default=SHIPPED, help="folder of the judge and the CLIP")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--params", type=json.loads, default={}, help="JSON over the default params")
    parser.add_argument("--tuning", action="store_true", help="tuning seeds, and the guided figure alone")
    parser.add_argument("--samplers", action="store_true", help="compare samplers with one candidate instead")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (.png) of the first rows here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure = Measure(given.weights, given.shipped, given.device, given.candidates, {**PARAMS, **given.params})
    work = tasks(TUNING if given.tuning else HELD_OUT, given.rows)
    if given.samplers:
        edits, lines = replace(measure, candidates=1).by_sampler(work)
        print("\n".join(lines))
    elif given.tuning:
        edits = measure.edits(work)
        print(f"{measure.params} {edits.figures()}")
    else:
        edits, report = measure.report(work)
        print(table(report))
        if given.json:
            given.json.write_text(json.dumps(report, indent=2) + "\n")
    if given.sheet:
        contact_sheet(work, edits, given.sheet)


def tasks(first_seed: int, rows: int) -> list[ExemplarTask]:
    """Return the exemplar tasks of consecutive seeds."""
    return [exemplar_task(first_seed + index) for index in range(rows)]


@dataclass(frozen=True)
class Measure:
    """A measurement: weights, device and parameters."""

    weights: Path  # folder of the exemplar set
    shipped: Path  # folder of the judge and the CLIP
    device: str
    candidates: int
    params: Mapping[str, Any]

    def report(self, work: Sequence[ExemplarTask]) -> tuple[Edits, dict[str, Any]]:
        """Return the edits at the default scale, and all figures."""
        main = self.edits(work)
        chosen = self.params["guidance_scale"]
        by_scale = {
            f"{scale:g}": (main if scale == chosen else self.edits(work, scale)).figures()
            for scale in (WITHOUT_EXEMPLAR, *SCALES)
        }
        return main, {
            "rows": len(work),
            "candidates": self.candidates,
            "params": dict(self.params),
            "by guidance scale": by_scale,
            "judge agrees on reconstructions": self.reconstruction(len(work)),
            "pixel correlation": correlations(work, main),
        }

    def by_sampler(self, work: Sequence[ExemplarTask]) -> tuple[Edits, list[str]]:
        """Return edits in fine steps, and a Markdown table of each sampler with fewer steps from the same noise."""
        fine = replace(self, params={**self.params, **FINE}).edits(work)
        masks = np.stack([task.mask for task in work])[:, None]
        lines = [
            "| sampler | steps | judge, shape and colour | region CLIP | levels from fine steps, inside the mask |"
        ]
        lines.append("|---|---|---|---|---|")
        runs = [("ddim", FINE["steps"], fine)]
        for name in SAMPLERS:
            for steps in STEPS:
                edits = replace(self, params={**self.params, "sampler": name, "steps": steps}).edits(work)
                runs.append((name, steps, edits))
        for name, steps, edits in runs:
            apart = np.abs(edits.images.astype(int) - fine.images)[masks].mean()
            got = edits.figures()
            lines.append(f"| {name} | {steps} | {got['one']:.1%} | {got['region clip']:.1f} | {apart:.1f} |")
        return fine, lines

    def edits(self, work: Sequence[ExemplarTask], scale: float | None = None) -> Edits:
        """Edit each task ``candidates`` times and classify the edits with the judge."""
        params = dict(self.params) if scale is None else {**self.params, "guidance_scale": scale}
        files = {
            role: str((self.shipped if role == "clip" else self.weights) / f"{role}.safetensors") for role in ROLES
        }
        editor = PaintByExample.load(PaintByExample.Params(**params), files, self.device)
        judge = load_judge(self.shipped).to(self.device)
        images, verdicts, distances = [], [], []
        for start in range(0, len(work), 16):
            part = [task for task in work[start : start + 16] for _ in range(self.candidates)]
            count = self.candidates
            seeds = [1000 * (start + index // count) + index % count for index in range(len(part))]
            batch = _batch(part, seeds)
            results = editor.edit_batch(batch)
            edited = np.stack([result.image for result in results])
            edited = np.where(batch.mask[..., None], edited, batch.image)
            seen = judge.judge(edited, batch.mask)
            images.append(edited)
            verdicts += [(s == task.shape, c == task.colour) for (s, c), task in zip(seen, part, strict=True)]
            distances += [result.metrics["exemplar_distance"] for result in results]
        shape = (len(work), self.candidates)
        right = np.array(verdicts).reshape(*shape, 2)
        pixels = np.concatenate(images).reshape(*shape, *images[0].shape[1:])
        return Edits(pixels, right[..., 0], right[..., 1], np.array(distances).reshape(shape))

    def reconstruction(self, rows: int) -> float:
        """Return the share of held-out scenes that the judge classifies alike before and after the autoencoder."""
        drawn = [training_pair(HELD_OUT + index) for index in range(rows)]
        originals, masks = np.stack([pair.target for pair in drawn]), np.stack([pair.mask for pair in drawn])
        rebuilt = reconstructed(self.weights, originals)
        judge = load_judge(self.shipped)
        pairs = zip(judge.judge(originals, masks), judge.judge(rebuilt, masks), strict=True)
        return float(np.mean([before == after for before, after in pairs]))


@torch.no_grad()
def reconstructed(weights: Path, images: Pixels) -> Pixels:
    """Return images [N, S, S, 3] after the autoencoder."""
    vae = load_vae(weights)
    return to_pixels(vae.decode(encode(vae, images), return_dict=False)[0])


def correlations(work: Sequence[ExemplarTask], edits: Edits) -> dict[str, float]:
    """Return mean Pearson correlations of the edited boxes with their exemplar and with another of its kind.

    Pasted pixels would correlate with the exemplar near 1, and more than with the other.
    """
    own, other = [], []
    for index, task in enumerate(work):
        rng = np.random.default_rng((index, 8))
        second = other_reference(rng, task.shape, task.colour, without=task.scene.ground)
        box = _boxed(edits.images[index, edits.distance[index].argmin()], task)
        own.append(_correlation(box, task.exemplar))
        other.append(_correlation(box, second))
    return {"own exemplar": float(np.mean(own)), "another of its kind": float(np.mean(other))}


def table(report: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    count = report["candidates"]
    lines = [
        f"| guidance scale, {report['rows']} held-out rows | one candidate | best of {count} | any of {count} | shape |"
        " colour | region CLIP |",
        "|---|---|---|---|---|---|---|",
    ]
    for scale, got in report["by guidance scale"].items():
        name = "without exemplar" if float(scale) == WITHOUT_EXEMPLAR else scale
        values = " | ".join(f"{got[key]:.1%}" for key in ("one", "best", "any", "shape", "colour"))
        lines.append(f"| {name} | {values} | {got['region clip']:.1f} |")
    same, found = report["judge agrees on reconstructions"], report["pixel correlation"]
    lines.append(
        f"\nThe judge classifies {same:.1%} of reconstructions like their originals. Correlation of the edited box with"
        f" its exemplar {found['own exemplar']:.2f}, with another of its kind {found['another of its kind']:.2f}."
    )
    return "\n".join(lines)


def contact_sheet(work: Sequence[ExemplarTask], edits: Edits, path: Path, rows: int = 36, zoom: int = 3) -> None:
    """Write source, mask, exemplar and candidates (best first) of the first rows, in three columns."""
    lines = []
    for task, images, distance in zip(work[:rows], edits.images, edits.distance, strict=False):
        holed = np.where(task.mask[..., None], 128, task.scene.image).astype(np.uint8)
        tiles = [task.scene.image, holed, task.exemplar, *images[distance.argsort()]]
        lines.append(np.concatenate([np.pad(tile, ((1, 1), (1, 1), (0, 0))) for tile in tiles], axis=1))
    columns = [np.concatenate(lines[start::3][: len(lines) // 3]) for start in range(3)]
    sheet = Image.fromarray(np.concatenate([np.pad(part, ((0, 0), (0, 8), (0, 0))) for part in columns], axis=1))
    sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.Resampling.NEAREST).save(path)


def _batch(part: Sequence[ExemplarTask], seeds: Sequence[int]) -> Batch:
    return Batch(
        image=np.stack([task.scene.image for task in part]),
        mask=np.stack([task.mask for task in part]),
        prompt=[""] * len(part),
        seed=seeds,
        exemplar=np.stack([task.exemplar for task in part]),
    )


def _boxed(image: Pixels, task: ExemplarTask) -> Pixels:
    """Return the mask's bounding box at the exemplar's size."""
    x0, y0, x1, y1 = bounding_box(task.mask)
    size = task.exemplar.shape[:2]
    box = F.interpolate(to_tensor(image[None, y0:y1, x0:x1]), size, mode="bilinear", antialias=True)
    shown: Pixels = to_pixels(box)[0]
    return shown


def _correlation(first: Pixels, second: Pixels) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


if __name__ == "__main__":
    main()
