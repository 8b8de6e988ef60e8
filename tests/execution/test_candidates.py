"""Rounds of candidates: numbered on, whole, and as many as a pass has room for."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from retouch.execution.candidates import Row, batch_of, candidate_seed, next_entries
from retouch.execution.specs import EngineSpec
from retouch.manifests.samples import Sample


def row(key: str, **sample: Any) -> Row:
    image, mask = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool)
    return Row(Sample(key, "f", **sample), None, image, mask, exemplar=None, control=None, checkpoint=None)


def spec(candidates: int) -> EngineSpec:
    return EngineSpec("editor", {}, {}, candidates=candidates, seed=3)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 6), st.integers(1, 16))
def test_every_row_gets_its_round_and_only_room_that_would_be_padded_is_filled(
    count: int, candidates: int, budget: int, shape: int
) -> None:
    rows = [row(str(i)) for i in range(count)]
    found = next_entries(rows, spec(candidates), budget, shape)
    needed = count * candidates
    assert -(-len(found) // shape) == -(-needed // shape), "not one pass more"
    tried = {one.sample.key: [entry.candidate for entry in found if entry.row is one] for one in rows}
    for one in rows:
        assert tried[one.sample.key] == list(range(one.rounds * candidates)), "whole rounds, numbered on"
        assert 1 <= one.rounds <= budget
    spare = -len(found) % shape
    assert spare < candidates or all(one.rounds == budget for one in rows), "no room is left for a round"
    rounds = sorted(one.rounds for one in rows)
    assert rounds[-1] - rounds[0] <= 1, "in turn"


def test_the_next_call_goes_on_where_the_last_one_stopped_with_seeds_of_run_row_and_number() -> None:
    one, own = row("a"), row("b", seed=9)
    first = next_entries([one, own], spec(2), 3, 4)
    second = next_entries([one, own], spec(2), 3, 4)
    assert [entry.candidate for entry in first + second if entry.row is one] == [0, 1, 2, 3]
    assert [entry.seed for entry in second if entry.row is one] == [candidate_seed(3, "a", k) for k in (2, 3)]
    assert [entry.seed for entry in second if entry.row is own] == [candidate_seed(9, "b", k) for k in (2, 3)]


def test_a_batch_is_padded_with_its_last_entry() -> None:
    some = next_entries([row("a"), row("b")], spec(1), 1, 1)
    batch = batch_of(some, 4)
    assert batch.image.shape == (4, 4, 4, 3)
    assert list(batch.seed) == [some[0].seed, *[some[1].seed] * 3]
