import numpy as np
import pyarrow as pa
import pytest
from retouch.outputs.report.selection import (
    ALL_UP_TO,
    MAX_PER_CLASS,
    RANDOM,
    RANKED,
    choose_sections,
    lower_is_worse,
    score_columns,
)
from retouch.schema import RESULT_FIELDS, results_schema

SCHEMA = results_schema({"clip_score": pa.float64()}, pa.schema([("ground", pa.string())]))


def table(count: int, failed: int = 0) -> pa.Table:
    """Results of ``count`` rows, the first ``failed`` of them failures of three classes."""
    scores = np.random.default_rng(0).permutation(count) / count
    rows = []
    for i in range(count):
        row = {"key": f"k{i}", "fingerprint": "f", "status": "success", "clip_score": scores[i]}
        if i < failed:
            status = "failed_to_load" if i % 3 else "failed_to_edit"
            row |= {"status": status, "error_type": f"Error{i % 3}", "clip_score": None}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def chosen_keys(results: pa.Table, **thresholds: dict[str, float]) -> dict[str, list[str]]:
    keys = results["key"].to_pylist()
    return {s.title: [keys[i] for i in s.rows] for s in choose_sections(results, ["clip_score"], thresholds)}


def test_few_rows_are_all_shown_in_their_order():
    results = table(ALL_UP_TO, failed=20)

    assert chosen_keys(results) == {"All rows": results["key"].to_pylist()}


def test_no_rows_give_no_section():
    assert choose_sections(table(0), ["clip_score"], {}) == []


def test_many_rows_give_random_ones_the_worst_the_best_and_failures_of_each_class():
    results = table(ALL_UP_TO + 100, failed=60)

    chosen = chosen_keys(results)

    assert [len(keys) for keys in chosen.values()] == [RANDOM, RANKED, RANKED, 3 * MAX_PER_CLASS]
    scores = dict(zip(results["key"].to_pylist(), results["clip_score"].to_pylist(), strict=True))
    known = sorted(score for score in scores.values() if score is not None)
    assert [scores[key] for key in chosen["Worst by clip_score"]] == known[:RANKED]
    assert [scores[key] for key in chosen["Best by clip_score"]] == known[::-1][:RANKED]
    assert all(scores[key] is None for key in chosen["Failures"])
    kinds = [int(key[1:]) % 3 for key in chosen["Failures"]]
    assert sorted(kinds) == [0] * MAX_PER_CLASS + [1] * MAX_PER_CLASS + [2] * MAX_PER_CLASS


def test_the_random_rows_depend_on_keys_alone():
    results = table(500)
    tonight = results.take(pa.array(np.random.default_rng(1).permutation(500)))

    assert chosen_keys(results) == chosen_keys(tonight)
    assert chosen_keys(results)["Random rows"] != results["key"].to_pylist()[:RANDOM]


def test_the_worst_rows_are_the_highest_where_a_threshold_is_a_maximum():
    results = table(300)

    worst = chosen_keys(results, clip_score={"max": 0.5})["Worst by clip_score"]

    scores = dict(zip(results["key"].to_pylist(), results["clip_score"].to_pylist(), strict=True))
    assert [scores[key] for key in worst] == sorted(scores.values(), reverse=True)[:RANKED]


@pytest.mark.parametrize(
    ("name", "threshold", "expected"),
    [
        ("clip_score", {}, True),
        ("clip_score", {"max": 1.0, "min": None}, False),
        ("background_l1", {}, False),
        ("background_lpips", {"min": 0.1, "max": None}, True),
        ("clip_distance", {"min": 0.1, "max": 0.9}, False),
    ],
)
def test_a_threshold_says_in_which_direction_a_score_is_worse_else_its_name(name, threshold, expected):
    assert lower_is_worse(name, {name: threshold}) is expected


def test_scores_are_the_columns_that_are_neither_ours_nor_the_callers():
    assert score_columns(SCHEMA, ["ground"]) == ["clip_score"]
    assert score_columns(RESULT_FIELDS, []) == []


def test_a_run_without_scores_has_no_worst_rows():
    results = table(300).drop_columns(["clip_score"])

    assert [section.title for section in choose_sections(results, [], {})] == ["Random rows"]


def test_a_score_that_is_no_finite_number_ranks_no_row_and_further_scores_rank_fewer():
    results = table(300)
    other = pa.array([float("nan"), float("inf"), None, *range(297)], pa.float64())
    results = results.append_column("clip_distance", other)
    keys = results["key"].to_pylist()
    chosen = {s.title: [keys[i] for i in s.rows] for s in choose_sections(results, ["clip_score", "clip_distance"], {})}
    assert chosen["Worst by clip_distance"] == keys[::-1][: len(chosen["Worst by clip_distance"])]
    assert 0 < len(chosen["Best by clip_distance"]) < RANKED
    assert not {"k0", "k1", "k2"} & {*chosen["Worst by clip_distance"], *chosen["Best by clip_distance"]}
