"""The gate passes candidates that meet all thresholds; a row is decided by the first round that has one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from retouch.execution.outcomes import KeptCandidate
from retouch.execution.quality_gate import budget, decided_in, misses
from retouch.jobs.config import QualitySpec, Threshold

BOUND = {"score": Threshold(min=0.5)}


def kept(*scores: float) -> list[KeptCandidate]:
    return [KeptCandidate(k, k, np.zeros(0, np.uint8), {"score": score}) for k, score in enumerate(scores)]


@pytest.mark.parametrize(
    ("score", "messages"),
    [
        (0.5, []),
        (0.49, ["score 0.49 is under 0.5"]),
        (2.0, ["score 2 is over 1"]),
        (None, []),
        (True, []),
        (False, ["score 0 is under 0.5"]),
        (math.nan, ["score is nan"]),
        (math.inf, ["score is inf"]),
    ],
)
def test_bounds_are_inclusive_an_undefined_score_misses_none_and_one_that_is_no_number_passes_none(
    score: float | None, messages: list[str]
) -> None:
    assert misses({"score": score}, {"score": Threshold(min=0.5, max=1)}) == messages


def test_only_a_job_that_retries_has_more_than_one_round() -> None:
    assert [budget(QualitySpec(mode=mode, rounds=5)) for mode in ("score", "reject", "retry")] == [1, 1, 5]


@given(st.lists(st.floats(0, 1), max_size=12), st.integers(1, 4))
def test_later_candidates_never_change_in_which_round_a_row_was_decided(scores: list[float], candidates: int) -> None:
    quality = QualitySpec(mode="retry", thresholds=BOUND)
    decided = [decided_in(kept(*scores[:tried]), quality, candidates) for tried in range(len(scores) + 1)]
    known = [found for found in decided if found is not None]
    assert len(set(known)) <= 1
    assert decided[len(decided) - len(known) :] == known, "once decided, decided for good"
    assert bool(known) == any(score >= 0.5 for score in scores)


def test_the_order_in_which_candidates_came_back_decides_nothing() -> None:
    candidates = kept(0.1, 0.9, 0.2, 0.8)
    quality = QualitySpec(mode="retry", thresholds=BOUND)
    assert decided_in(candidates, quality, 2) == decided_in(candidates[::-1], quality, 2) == 0
