"""The quality gate: which candidates meet a job's thresholds, and which candidate round decides a row.

A round tries ``candidates`` further seeds of a row. The first round in which a candidate passes decides the row, or
else the last round that the budget allows. So a larger budget only adds candidates, and candidates of rounds after the
deciding one change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from retouch.execution.outcomes import KeptCandidate
from retouch.jobs.config import QualitySpec, Threshold


def budget(quality: QualitySpec) -> int:
    """Return how many rounds a row may take: more than one only if the job retries."""
    return quality.rounds if quality.mode == "retry" else 1


def misses(scores: Mapping[str, Any], thresholds: Mapping[str, Threshold]) -> list[str]:
    """Return a message for each threshold that a candidate misses. An undefined score misses none."""
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
    """Return the first round with a candidate that meets all thresholds, from 0; None if there is none.

    Args:
        kept: a row's candidates so far, in any order.
        quality: thresholds.
        candidates: per round.
    """
    passing = [one.candidate for one in kept if not misses(one.scores, quality.thresholds)]
    return min(passing) // candidates if passing else None
