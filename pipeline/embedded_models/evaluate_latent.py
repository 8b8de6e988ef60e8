"""Measures blended_latent on a 4-channel folder: ``python -m embedded_models.evaluate_latent [--rows 200]``.

The judge classifies the edits; CLIP only ranks candidates. Prints a table of the default parameters, the published
variants, and what follows the sampling; JSON with ``--json FILE``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from retouch.editors.blended_latent.editor import BlendedLatent
from retouch.metrics.seam import SeamL1
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.judge import load_judge
from retouch.models.embedded.scenes import HELD_OUT, TUNING, EditTask
from retouch.schema import Batch

from embedded_models.evaluate import tasks

# Chosen on tuning seeds (``--tuning``), never on those of the figures.
PARAMS: Final[dict[str, Any]] = {"steps": 20, "guidance_scale": 5.0}
ONCE: Final[Mapping[str, dict[str, Any]]] = {  # measured with one candidate
    "paper": {"preset": "paper"},
    "repo_sd2": {"preset": "repo_sd2", "guidance_scale": None},
    "repo_sdxl": {"preset": "repo_sdxl"},
    "shrink 1": {"shrink": 1},
    "mask_resize cover": {"mask_resize": "cover"},
    "background poisson": {"background": "poisson"},
    "background latents": {"background": "latents"},
    "background weights": {"background": "weights"},
}
BATCH: Final = 16  # entries per pass


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m embedded_models.evaluate_latent", description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--weights", type=Path, default=SHIPPED.with_name("text_to_image"), help="a diffusers folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--params", type=json.loads, default={}, help="JSON over the default params")
    parser.add_argument("--tuning", action="store_true", help="tuning seeds, and the default params alone")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    params = {**PARAMS, **given.params}
    work = tasks(TUNING if given.tuning else HELD_OUT, given.rows)
    report = {"default": measure(given.weights, work, given.candidates, params, given.device)}
    for name, changes in {} if given.tuning else ONCE.items():
        report[name] = measure(given.weights, work, 1, {**params, **changes}, given.device)
    print(table(report, given.rows, params))
    if given.json:
        given.json.write_text(json.dumps({"params": params, **report}, indent=2) + "\n")


def measure(
    folder: Path, work: Sequence[EditTask], candidates: int, params: Mapping[str, Any], device: str
) -> dict[str, float]:
    """Return shares of rows whose mask holds the prompt's shape and colour, the seam, and seconds per candidate."""
    files = {"model_index": str(folder / "model_index.json"), "clip": str(SHIPPED / "clip.safetensors")}
    editor = BlendedLatent.load(BlendedLatent.Params(**params), files, device)
    judge = load_judge(SHIPPED).to(device)
    entries = [(1000 * row + k, task) for row, task in enumerate(work) for k in range(candidates)]
    right: list[bool] = []
    distances: list[float] = []
    seams: list[float] = []
    seconds = 0.0
    for at in range(0, len(entries), BATCH):
        batch = _batch(entries[at : at + BATCH])
        started = time.process_time()
        results = editor.edit_batch(batch)
        seconds += time.process_time() - started
        images = np.stack([result.image for result in results])
        pasted = np.where(batch.mask[..., None], images, batch.image)
        part = entries[at : at + BATCH]
        seen = judge.judge(pasted, batch.mask)
        right += [found == (task.shape, task.colour) for found, (_, task) in zip(seen, part, strict=True)]
        distances += [result.metrics["clip_distance"] for result in results]
        seams += [row["seam_l1"] for row in SeamL1().score_batch(batch, images)]
    both = np.array(right).reshape(-1, candidates)
    first = np.array(distances).reshape(-1, candidates).argmin(axis=1)
    return {
        "one": float(both.mean()),  # over all candidates
        "best": float(both[np.arange(len(both)), first].mean()),  # for the candidate that CLIP ranks first
        "any": float(both.any(axis=1).mean()),
        "seam": float(np.mean(seams)),
        "seconds": seconds / len(entries),  # of processor time
    }


def table(report: Mapping[str, Mapping[str, float]], rows: int, params: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"| {rows} rows, {json.dumps(dict(params))} | one | best | any | seam, levels | CPU-s a candidate |",
        "|---|---|---|---|---|---|",
    ]
    for name, got in report.items():
        shares = " | ".join(f"{got[key]:.1%}" for key in ("one", "best", "any"))
        lines.append(f"| {name} | {shares} | {got['seam']:.1f} | {got['seconds']:.3f} |")
    return "\n".join(lines)


def _batch(entries: Sequence[tuple[int, EditTask]]) -> Batch:
    return Batch(
        image=np.stack([task.scene.image for _, task in entries]),
        mask=np.stack([task.mask for _, task in entries]),
        prompt=[task.prompt for _, task in entries],
        seed=[seed for seed, _ in entries],
    )


if __name__ == "__main__":
    main()
