"""The quality gate: which candidates keep a job's thresholds, and which round of a row decides it. Knows no editor.

A round is ``candidates`` more seeds of a row, numbered on; a row is decided by the first round after which one of its
candidates passes, or by the last one that its budget allows. So a larger budget only adds candidates, and whatever was
tried beyond the deciding round changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from retouch.execution.outcomes import KeptCandidate
from retouch.jobs.config import QualitySpec, Threshold


def budget(quality: QualitySpec) -> int:
    """Rounds that a row may take: more than one only where the job retries."""
    return quality.rounds if quality.mode == "retry" else 1


def misses(scores: Mapping[str, Any], thresholds: Mapping[str, Threshold]) -> list[str]:
    """Which bounds a candidate's scores do not keep, in words. A score that is undefined for it misses none."""
    missed = []
    for name, bound in thresholds.items():
        score = scores.get(name)
        if score is None:
            continue
        if not math.isfinite(score):
            missed.append(f"{name} is {score}")
        elif bound.min is not None and score < bound.min:
            missed.append(f"{name} {score:.4g} is under {bound.min:g}")
        elif bound.max is not None and score > bound.max:
            missed.append(f"{name} {score:.4g} is over {bound.max:g}")
    return missed


def decided_in(kept: Sequence[KeptCandidate], quality: QualitySpec, candidates: int) -> int | None:
    """The first round with a candidate that keeps all thresholds, from 0; None where none has one.

    Args:
        kept: a row's candidates so far, in any order.
        quality: thresholds.
        candidates: of a round.
    """
    passing = [one.candidate for one in kept if not misses(one.scores, quality.thresholds)]
    return min(passing) // candidates if passing else None
