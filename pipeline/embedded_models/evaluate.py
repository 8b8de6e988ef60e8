"""Measures the shipped family on held-out seeds: ``python -m embedded_models.evaluate [--rows 200]``.

The judge classifies the edits; the CLIP that guides only ranks them. Prints a table, and JSON with ``--json FILE``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from retouch.editors.blended_diffusion.editor import BlendedDiffusion
from retouch.models.clip import Clip, load_clip
from retouch.models.embedded.data import to_tensor
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.judge import JudgeNet, load_judge
from retouch.models.embedded.scenes import HELD_OUT, TUNING, EditTask, draw_scene, edit_task, object_prompt
from retouch.schema import Batch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from embedded_models.train_judge import accuracy, judge_crops
from embedded_models.words import PROMPTS

# Chosen on tuning seeds (``--tuning``), never on those of the figures.
PARAMS: Final[dict[str, Any]] = {"timesteps": 30, "skip_timesteps": 1, "clip_guidance_lambda": 300.0}
WITHOUT_GUIDANCE: Final = {"clip_guidance_lambda": 0.0}
WITHOUT_BLENDING: Final = {"local_clip_guided": True}


@dataclass(frozen=True)
class Success:
    """Shares of rows whose mask holds the shape and the colour of the prompt, by the judge."""

    one: float  # over all candidates
    best: float  # for the candidate that the editor's own distance ranks first
    any: float  # for at least one candidate
    shape: float  # the shape alone, over all candidates
    colour: float  # the colour alone, over all candidates


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m embedded_models.evaluate", description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--params", type=json.loads, default={}, help="JSON over the default params")
    parser.add_argument("--tuning", action="store_true", help="tuning seeds, and the guided figure alone")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    params = {**PARAMS, **given.params}
    if given.tuning:
        figures = edits(given.weights, tasks(TUNING, given.rows), given.candidates, params, given.device)
        print(f"{params} {figures}")
        return
    report = measure(given.weights, given.rows, given.candidates, params, given.device)
    print(table(report, given.rows, given.candidates))
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")


def measure(weights: Path, rows: int, candidates: int, params: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return all figures on held-out seeds."""
    work = tasks(HELD_OUT, rows)
    variants: dict[str, dict[str, Any]] = {
        "guided": {},
        "without guidance": WITHOUT_GUIDANCE,
        "without blending": WITHOUT_BLENDING,
    }
    return {
        "params": dict(params),
        "clip zero-shot": zero_shot(load_clip(str(weights / "clip.safetensors"), device), rows),
        "judge accuracy": judge_accuracy(load_judge(weights).to(device), rows),
        "edits": {
            name: vars(edits(weights, work, candidates, {**params, **changes}, device))
            for name, changes in variants.items()
        },
    }


def tasks(first_seed: int, rows: int) -> list[EditTask]:
    """Return the editing tasks of consecutive seeds."""
    return [edit_task(first_seed + index) for index in range(rows)]


@torch.no_grad()
def zero_shot(clip: Clip, rows: int, first_seed: int = HELD_OUT) -> float:
    """Return the share of scenes with one shape whose prompt, of all 24, is the nearest in CLIP space."""
    scenes = [draw_scene(first_seed + index, count=1) for index in range(rows)]
    truth = [PROMPTS.index(object_prompt(scene.objects[0].shape, scene.objects[0].colour)) for scene in scenes]
    pixels = (to_tensor(np.stack([scene.image for scene in scenes])) + 1) / 2
    images = clip.encode_image(F.adaptive_avg_pool2d(pixels, clip.image_size).to(clip.device))
    words = F.normalize(clip.encode_text(PROMPTS), dim=-1)
    found = (F.normalize(images, dim=-1) @ words.T).argmax(dim=1).cpu()
    return float((found == torch.tensor(truth)).float().mean())


def judge_accuracy(judge: JudgeNet, rows: int, first_seed: int = HELD_OUT) -> float:
    """Return the share of held-out places whose shape and colour, or absence, the judge gets right."""
    device = judge.shape_head.weight.device
    return accuracy(judge, *(part.to(device) for part in judge_crops(rows, first_seed)))


def edits(weights: Path, work: Sequence[EditTask], candidates: int, params: Mapping[str, Any], device: str) -> Success:
    """Return the success of editing each task ``candidates`` times."""
    files = {"unet": str(weights / "unet.safetensors"), "clip": str(weights / "clip.safetensors")}
    editor = BlendedDiffusion.load(BlendedDiffusion.Params(**{**PARAMS, **params}), files, device)
    judge = load_judge(weights).to(device)
    verdicts: list[tuple[bool, bool]] = []
    distances: list[float] = []
    for start in range(0, len(work), 16):
        new_verdicts, new_distances = attempt(editor, judge, work[start : start + 16], start, candidates)
        verdicts, distances = verdicts + new_verdicts, distances + new_distances
    return _success(np.array(verdicts), np.array(distances), candidates)


def attempt(
    editor: BlendedDiffusion, judge: JudgeNet, work: Sequence[EditTask], first: int, candidates: int
) -> tuple[list[tuple[bool, bool]], list[float]]:
    """Edit some tasks, the first of which has number ``first``; a task's candidates are adjacent.

    Returns:
        Whether the mask holds the prompt's shape and its colour, and the editor's own distance, per candidate.
    """
    part = [task for task in work for _ in range(candidates)]
    batch = Batch(
        image=np.stack([task.scene.image for task in part]),
        mask=np.stack([task.mask for task in part]),
        prompt=[task.prompt for task in part],
        seed=[1000 * (first + index // candidates) + index % candidates for index in range(len(part))],
    )
    results = editor.edit_batch(batch)
    seen = judge.judge(np.stack([result.image for result in results]), batch.mask)
    verdicts = [(s == task.shape, c == task.colour) for (s, c), task in zip(seen, part, strict=True)]
    return verdicts, [float(result.metrics.get("clip_distance", 0.0)) for result in results]


def table(report: Mapping[str, Any], rows: int, candidates: int) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"| {rows} held-out rows | one candidate | best of {candidates} | any of {candidates} | shape | colour |",
        "|---|---|---|---|---|---|",
    ]
    for name, got in report["edits"].items():
        values = " | ".join(f"{got[key]:.1%}" for key in ("one", "best", "any", "shape", "colour"))
        lines.append(f"| {name} | {values} |")
    lines.append(f"\nCLIP zero-shot {report['clip zero-shot']:.1%}, judge {report['judge accuracy']:.1%}")
    return "\n".join(lines)


def _success(verdicts: Any, distances: Any, candidates: int) -> Success:
    """Return the shares of ``verdicts`` [N*C, 2] bool (shape, colour); ``distances`` [N*C] rank a row's candidates."""
    both = verdicts.all(axis=1).reshape(-1, candidates)
    first = distances.reshape(-1, candidates).argmin(axis=1)
    shape, colour = (float(share) for share in verdicts.mean(axis=0))
    best = float(both[np.arange(len(both)), first].mean())
    return Success(float(both.mean()), best, float(both.any(axis=1).mean()), shape, colour)


if __name__ == "__main__":
    main()
