"""What a gate would have made of given tries: computed by the rule by which the engine stops."""

from __future__ import annotations

import json
from pathlib import Path

from embedded_models.evaluate_gate import SCORE, gated, read, table
from hypothesis import given
from hypothesis import strategies as st
from retouch.jobs.config import QualitySpec, Threshold

TRIES = [[(0.1, True), (0.2, False)], [(0.9, False), (0.2, True)], [(0.9, False), (0.8, False)]]


def quality(bound: float, rounds: int) -> QualitySpec:
    return QualitySpec(mode="retry", thresholds={SCORE: Threshold(max=bound)}, rounds=rounds)


def test_a_row_pays_for_its_tries_until_one_passes() -> None:
    got = gated(TRIES, quality(0.3, 2))
    assert got["passes"] == 5 / 3
    assert got["kept"] == [True, True, False]
    assert got["all"] == [True, True, False]
    assert got["of_kept"] == [True, True]
    assert gated(TRIES, quality(0.3, 1))["kept"] == [True, False, False]


rows = st.lists(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=3, max_size=3), min_size=1, max_size=9)


@given(rows, st.floats(0, 1))
def test_more_rounds_keep_more_rows_and_cost_more_passes(tries: list, bound: float) -> None:
    found = [gated(tries, quality(bound, rounds)) for rounds in (1, 2, 3)]
    assert [sum(one["kept"]) for one in found] == sorted(sum(one["kept"]) for one in found)
    assert [one["passes"] for one in found] == sorted(one["passes"] for one in found)
    assert found[0]["passes"] == 1


def test_tries_are_kept_in_a_file_and_told_as_a_table(tmp_path: Path) -> None:
    file = tmp_path / "tries.jsonl"
    assert read(file, "held out") == []
    file.write_text("".join(json.dumps({"of": "held out", "tries": row}) + "\n" for row in TRIES))
    assert read(file, "held out") == TRIES
    assert read(file, "tuning") == []
    text = table([[(0.3, True)]], TRIES)
    assert "| best of 2, no gate | | 2.00 | 66.7% (2 of 3) |" in text
    assert (
        "| retry, up to 2 | 0.3000 (50% of tuning tries) | 1.67 | 66.7% (2 of 3) | 66.7% (2 of 3) | 100.0% (2 of 2) |"
        in text
    )
