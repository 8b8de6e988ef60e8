"""Measures the benefit of a retry gate on the shipped family: ``python -m embedded_models.evaluate_gate [--rows 96]``.

The gate uses the editor's own CLIP distance; the judge only counts successes. Thresholds are quantiles of the distances
on tuning seeds; the figures are of held-out ones. Candidates are made once and kept in a file, so the command can be
run in parts; Retouch's own gate then decides on the stored candidates.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from retouch.editors.blended_diffusion.editor import BlendedDiffusion
from retouch.execution import quality_gate
from retouch.execution.outcomes import KeptCandidate
from retouch.jobs.config import QualitySpec, Threshold
from retouch.models.embedded.files import SHIPPED
from retouch.models.embedded.judge import load_judge
from retouch.models.embedded.scenes import HELD_OUT, TUNING

from embedded_models.evaluate import PARAMS, attempt, tasks

SCORE: Final = "clip_distance"
QUANTILES: Final = (0.75, 0.5, 0.25)  # of the tuning distances; a candidate below one passes
AT_ONCE: Final = 4  # rows
Tries = list[list[tuple[float, bool]]]  # per row and candidate: distance, and whether the judge agrees


def main() -> None:
    """Parse the command line, make the missing candidates, print."""
    parser = argparse.ArgumentParser(prog="python -m embedded_models.evaluate_gate", description=__doc__)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--candidates", type=int, default=4, help="the largest budget")
    parser.add_argument("--tuning-rows", type=int, default=32)
    parser.add_argument("--tries", type=Path, required=True, help="file for the candidates (JSON lines)")
    parser.add_argument("--most", type=int, default=10**9, help="most rows to edit in this call")
    given = parser.parse_args()
    left = given.most
    drawn: dict[str, Tries] = {}
    wanted = {"tuning": (TUNING, given.tuning_rows, 1), "held out": (HELD_OUT, given.rows, given.candidates)}
    for name, (first_seed, rows, candidates) in wanted.items():
        drawn[name], made = _draw(
            given.tries, name, first_seed, min(rows, len(read(given.tries, name)) + left), candidates
        )
        left -= made
        if len(drawn[name]) < rows:
            print(f"{name}: {len(drawn[name])} of {rows} rows edited")
            return
    print(table(drawn["tuning"], drawn["held out"]))


def table(tuning: Tries, held_out: Tries) -> str:
    """Return the figures as Markdown."""
    distances = [distance for row in tuning for distance, _ in row]
    most = len(held_out[0])
    lines = [
        f"| {len(held_out)} held-out rows | threshold | passes a row | the judge agrees, of all rows "
        "| kept by the gate | the judge agrees, of those kept |",
        "|---|---|---|---|---|---|",
    ]
    for budget in range(1, most + 1):
        best = [min(row[:budget]) for row in held_out]
        lines.append(f"| best of {budget}, no gate | | {budget:.2f} | {_share([ok for _, ok in best])} | | |")
    for quantile in QUANTILES:
        bound = float(np.quantile(distances, quantile))
        for rounds in range(1, most + 1):
            got = gated(held_out, QualitySpec(mode="retry", thresholds={SCORE: Threshold(max=bound)}, rounds=rounds))
            lines.append(
                f"| retry, up to {rounds} | {bound:.4f} ({quantile:.0%} of tuning tries) | {got['passes']:.2f} "
                f"| {_share(got['all'])} | {_share(got['kept'])} | {_share(got['of_kept'])} |"
            )
    return "\n".join(lines)


def gated(tries: Tries, quality: QualitySpec) -> Mapping[str, Any]:
    """Return a gate's mean passes per row and the judge's verdicts on all and on kept rows, with one try per round."""
    passes, verdicts, kept = [], [], []
    for row in tries:
        some = row[: quality_gate.budget(quality)]
        candidates = [
            KeptCandidate(k, 0, np.empty(0, np.uint8), {SCORE: distance}) for k, (distance, _) in enumerate(some)
        ]
        decided = quality_gate.decided_in(candidates, quality, 1)
        tried = some if decided is None else some[: decided + 1]
        passes.append(len(tried))
        kept.append(decided is not None)
        verdicts.append(tried[-1][1] if decided is not None else min(tried)[1])
    of_kept = [verdict for verdict, is_kept in zip(verdicts, kept, strict=True) if is_kept]
    return {"passes": float(np.mean(passes)), "all": verdicts, "kept": kept, "of_kept": of_kept}


def _share(verdicts: Sequence[bool]) -> str:
    return f"{np.mean(verdicts):.1%} ({sum(verdicts)} of {len(verdicts)})" if verdicts else "none"


def read(file: Path, name: str) -> Tries:
    """Return the tries of one kind in a file; none if there is no file."""
    lines = file.read_text().splitlines() if file.exists() else []
    found = [json.loads(line) for line in lines]
    return [[(distance, bool(verdict)) for distance, verdict in line["tries"]] for line in found if line["of"] == name]


def _draw(file: Path, name: str, first_seed: int, rows: int, candidates: int) -> tuple[Tries, int]:
    """Return the tries of the first rows, and how many rows were missing in the file and added to it."""
    known = read(file, name)
    if len(known) >= rows:
        return known[:rows], 0
    files = {role: str(SHIPPED / f"{role}.safetensors") for role in ("unet", "clip")}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    editor = BlendedDiffusion.load(BlendedDiffusion.Params(**PARAMS), files, device)
    judge = load_judge(SHIPPED).to(device)
    work = tasks(first_seed, rows)
    for start in range(len(known), rows, AT_ONCE):
        part = work[start : start + AT_ONCE]
        verdicts, distances = attempt(editor, judge, part, start, candidates)
        pairs = [(distance, bool(all(verdict))) for verdict, distance in zip(verdicts, distances, strict=True)]
        with file.open("a") as out:
            for i in range(len(part)):
                out.write(json.dumps({"of": name, "tries": pairs[i * candidates : (i + 1) * candidates]}) + "\n")
    return read(file, name), rows - len(known)


if __name__ == "__main__":
    main()
