"""Measures the text-to-latent folders on held-out seeds: ``python -m embedded_models.evaluate_inpaint [--rows 200]``.

The judge classifies the edits that diffusers' own inpainting pipeline makes; the family's CLIP only ranks candidates,
as in Blended Diffusion. Prints a table, and JSON with ``--json FILE``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image
from retouch.editors.blended_diffusion.params import Params
from retouch.editors.blended_diffusion.sampler import clip_distance
from retouch.models.clip import Clip, load_clip
from retouch.models.embedded.data import to_tensor
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.judge import load_judge
from retouch.models.embedded.scenes import COLOURS, HELD_OUT, NONE, SHAPES, TUNING, EditTask, object_prompt
from retouch.schema import Mask, Pixels

from embedded_models.evaluate import tasks

# Chosen on tuning seeds (``--tuning``), never on those of the figures.
PARAMS: Final[dict[str, Any]] = {"num_inference_steps": 20, "guidance_scale": 3.0}
SCALES: Final = (1.0, 2.0, 3.0, 5.0, 7.0)
STEPS: Final = (5, 10, 20)
REMOVAL: Final = "nothing"  # the prompt for an empty place
BATCH: Final = 16


@dataclass(frozen=True)
class Edits:
    """The edits of N tasks with C candidates each."""

    images: Pixels  # [N, C, S, S, 3], the source's pixels outside the mask
    shape: np.ndarray  # [N, C] bool, by the judge
    colour: np.ndarray  # [N, C] bool
    distance: np.ndarray  # [N, C] CLIP's distance of the edited region from the prompt
    seconds: float  # of processor time for a candidate

    def figures(self) -> dict[str, float]:
        """Return shares of rows whose mask holds the prompt's shape and colour."""
        both, first = self.shape & self.colour, self.distance.argmin(axis=1)[:, None]
        return {
            "one": float(both.mean()),  # over all candidates
            "best": float(np.take_along_axis(both, first, 1).mean()),  # for the candidate that CLIP ranks first
            "any": float(both.any(axis=1).mean()),
            "shape": float(self.shape.mean()),
            "colour": float(self.colour.mean()),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Measure:
    """A measurement: weights, device and parameters."""

    folder: Path  # a diffusers folder
    shipped: Path  # folder of the judge and the CLIP
    device: str
    candidates: int
    params: Mapping[str, Any]

    def report(self, work: Sequence[EditTask]) -> tuple[Edits, dict[str, Any]]:
        """Return the edits with the default parameters, and all figures."""
        main = self.edits(work)
        once = replace(self, candidates=1)
        return main, {
            "rows": len(work),
            "candidates": self.candidates,
            "params": dict(self.params),
            "edits": main.figures(),
            "by guidance scale": {f"{scale:g}": once.changed(guidance_scale=scale).one(work) for scale in SCALES},
            "by steps": {str(steps): once.changed(num_inference_steps=steps).one(work) for steps in STEPS},
            "bare words": once.one([replace(task, prompt=f"{task.colour} {task.shape}") for task in work]),
            "removal": once.one([replace(task, prompt=REMOVAL, shape=NONE, colour=NONE) for task in work]),
        }

    def changed(self, **params: Any) -> Measure:
        """Return this measurement with other parameters."""
        return replace(self, params={**self.params, **params})

    def one(self, work: Sequence[EditTask]) -> float:
        """Return the share of candidates with the expected shape and colour."""
        return self.edits(work).figures()["one"]

    def edits(self, work: Sequence[EditTask]) -> Edits:
        """Edit each task ``candidates`` times and classify the edits with the judge."""
        pipeline = load(StableDiffusionInpaintPipeline, self.folder, self.device)
        seeds = [1000 * row + candidate for row in range(len(work)) for candidate in range(self.candidates)]
        part = [task for task in work for _ in range(self.candidates)]
        started = time.process_time()
        images = np.concatenate(
            [
                inpainted(pipeline, part[at : at + BATCH], seeds[at : at + BATCH], self.params)
                for at in range(0, len(part), BATCH)
            ]
        )
        seconds = (time.process_time() - started) / len(part)
        masks, prompts = np.stack([task.mask for task in part]), [task.prompt for task in part]
        seen = load_judge(self.shipped).judge(images, masks)
        right = np.array([(s == task.shape, c == task.colour) for (s, c), task in zip(seen, part, strict=True)])
        distance = distances(load_clip(str(self.shipped / "clip.safetensors")), images, masks, prompts)
        rows = (len(work), self.candidates)
        pixels = images.reshape(*rows, *images.shape[1:])
        return Edits(pixels, right[:, 0].reshape(rows), right[:, 1].reshape(rows), distance.reshape(rows), seconds)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m embedded_models.evaluate_inpaint", description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--weights", type=Path, default=SHIPPED.with_name("inpaint"), help="a diffusers folder")
    parser.add_argument("--shipped", type=Path, default=SHIPPED, help="folder of the judge and the CLIP")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--params", type=json.loads, default={}, help="JSON over the default params")
    parser.add_argument("--tuning", action="store_true", help="tuning seeds, and the main figure alone")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (.png) of the first rows here")
    parser.add_argument("--scenes", type=Path, help="write samples of whole scenes (.png) of a 4-channel folder here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure = Measure(given.weights, given.shipped, given.device, given.candidates, {**PARAMS, **given.params})
    work = tasks(TUNING if given.tuning else HELD_OUT, given.rows)
    if given.tuning:
        edits = measure.edits(work)
        print(f"{measure.params} {edits.figures()}")
    else:
        edits, report = measure.report(work)
        print(table(report))
        if given.json:
            given.json.write_text(json.dumps(report, indent=2) + "\n")
    if given.sheet:
        contact_sheet(work, edits, given.sheet)
    if given.scenes:
        scene_sheet(given.weights, given.device, measure.params, given.scenes)


def load(kind: Any, folder: Path, device: str) -> Any:
    """Return a diffusers pipeline of a folder, in float32, which prints no progress."""
    pipeline = kind.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def inpainted(pipeline: Any, work: Sequence[EditTask], seeds: Sequence[int], params: Mapping[str, Any]) -> Pixels:
    """Return one edit [N, S, S, 3] per task and seed, with the source's pixels outside the mask."""
    side = work[0].mask.shape[0]
    found = pipeline(
        prompt=[task.prompt for task in work],
        image=[Image.fromarray(task.scene.image) for task in work],
        mask_image=[Image.fromarray(task.mask.astype(np.uint8) * 255) for task in work],
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        height=side,
        width=side,
        strength=1.0,
        output_type="np",
        **params,
    ).images
    edited = (255 * found).round().astype(np.uint8)
    sources = np.stack([task.scene.image for task in work])
    masks = np.stack([task.mask for task in work])
    return np.where(masks[..., None], edited, sources)


@torch.no_grad()
def distances(clip: Clip, images: Pixels, masks: Mask, prompts: Sequence[str]) -> np.ndarray:
    """Return CLIP's distance [N] of each edited region from its prompt, as Blended Diffusion ranks candidates."""
    params, texts = Params().resolved(), {prompt: clip.encode_text([prompt])[0] for prompt in set(prompts)}
    found = []
    for at in range(0, len(images), 100):
        part = slice(at, at + 100)
        inside = torch.from_numpy(masks[part, None]).float()
        target = torch.stack([texts[prompt] for prompt in prompts[part]])
        found.append(clip_distance(clip, to_tensor(images[part]), inside, target, params).cpu().numpy())
    return np.concatenate(found)


def table(report: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    count, got = report["candidates"], report["edits"]
    shares = " | ".join(f"{got[key]:.1%}" for key in ("one", "best", "any", "shape", "colour"))
    lines = [
        f"| {report['rows']} held-out rows | one candidate | best of {count} | any of {count} | shape | colour |"
        " CPU-s a candidate |",
        "|---|---|---|---|---|---|---|",
        f"| {json.dumps(report['params'])} | {shares} | {got['seconds']:.3f} |",
    ]
    for name in ("by guidance scale", "by steps"):
        lines += ["", f"{name}: " + ", ".join(f"{key}: {value:.1%}" for key, value in report[name].items())]
    lines += ["", f"bare words {report['bare words']:.1%}, removal judged none {report['removal']:.1%}"]
    return "\n".join(lines)


def contact_sheet(work: Sequence[EditTask], edits: Edits, path: Path, rows: int = 36, zoom: int = 2) -> None:
    """Write source, mask and candidates (best first) of the first rows, in three columns."""
    lines = []
    for task, images, distance in zip(work[:rows], edits.images, edits.distance, strict=False):
        holed = np.where(task.mask[..., None], 128, task.scene.image).astype(np.uint8)
        lines.append(_framed([task.scene.image, holed, *images[distance.argsort()]], axis=1))
    height = -(-len(lines) // 3)
    blank = np.zeros_like(lines[0])
    lines += [blank] * (3 * height - len(lines))
    columns = [np.concatenate(lines[at * height : (at + 1) * height]) for at in range(3)]
    _write(np.concatenate([np.pad(part, ((0, 0), (0, 8), (0, 0))) for part in columns], axis=1), path, zoom)


def scene_sheet(folder: Path, device: str, params: Mapping[str, Any], path: Path, zoom: int = 2) -> None:
    """Write samples of a 4-channel folder: one row per shape and colour, in two columns, and one of other captions."""
    pipeline = load(StableDiffusionPipeline, folder, device)
    named = [object_prompt(shape, colour) for shape in SHAPES for colour in COLOURS]
    others = ["", "a striped gray ground", "a red circle and a blue square", "an orange cross on a plain black ground"]
    lines = []
    for prompt in [*named, *others]:
        seeds = [torch.Generator().manual_seed(seed) for seed in range(8)]
        found = pipeline([prompt] * len(seeds), generator=seeds, output_type="np", **params).images
        lines.append(_framed(list((255 * found).round().astype(np.uint8)), axis=1))
    half = len(lines) // 2
    _write(np.concatenate([np.concatenate(lines[:half]), np.concatenate(lines[half:])], axis=1), path, zoom)


def _framed(tiles: Sequence[Pixels], axis: int) -> Pixels:
    return np.concatenate([np.pad(tile, ((1, 1), (1, 1), (0, 0))) for tile in tiles], axis=axis)


def _write(sheet: Pixels, path: Path, zoom: int) -> None:
    image = Image.fromarray(sheet).quantize(256)  # a third of the file's size
    image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST).save(path, optimize=True)


if __name__ == "__main__":
    main()
