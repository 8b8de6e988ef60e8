"""Which earlier outputs count. What a run makes of them: test_nights."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
from retouch.outputs import carry_over
from retouch.outputs.carry_over import EarlierRun, find_earlier_runs, reusable_runs

DECIDES = {"seed": 0, "manifest": "m.parquet", "editor": {"name": "painter"}}


def leave(folder: Path, name: str, started: str, **changes: object) -> str:
    output = folder / name
    output.mkdir()
    record = {"rows": 1, "started": started, "decides": {**DECIDES, **changes}}
    (output / "run.json").write_text(json.dumps(record))
    return str(output)


def test_the_newest_run_comes_first_and_the_own_output_is_none_of_them(tmp_path: Path) -> None:
    old, own, new = (leave(tmp_path, name, f"2026-11-0{day}") for name, day in (("b", 1), ("c", 3), ("a", 2)))
    found, refused = find_earlier_runs(str(tmp_path / "*"), own, DECIDES)
    assert [run.output for run in found] == [new, old]
    assert not refused


def test_a_run_on_another_manifest_counts_and_one_of_another_job_is_named_with_what_differs(tmp_path: Path) -> None:
    leave(tmp_path, "a", "2026-11-01", manifest="other.parquet")
    other = leave(tmp_path, "b", "2026-11-02", seed=1, editor={"name": "writer"})
    found, refused = find_earlier_runs(str(tmp_path / "*"), str(tmp_path / "own"), DECIDES)
    assert [Path(run.output).name for run in found] == ["a"]
    assert refused == [f'{other} (editor.name: "writer" -> "painter" and more)']


def test_folders_that_hold_no_run_of_rows_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    training = tmp_path / "training"
    training.mkdir()
    (training / "run.json").write_text(json.dumps({"kind": "train"}))
    assert find_earlier_runs(str(tmp_path / "*"), "own", DECIDES) == ([], [])
    assert find_earlier_runs(str(tmp_path / "nothing"), "own", DECIDES) == ([], [])


def test_answers_come_from_the_newest_and_from_those_before_it_until_one_came_to_its_end() -> None:
    runs = [EarlierRun(name, "", finished) for name, finished in (("d", False), ("c", False), ("b", True), ("a", True))]
    assert [run.output for run in reusable_runs(runs)] == ["d", "c", "b"]


def test_an_answer_is_asked_again_by_its_status_or_its_error_class() -> None:
    statuses = ["failed_to_load", "failed_to_load", "failed_to_edit", "success"]
    answers = pa.table(
        {"status": statuses, "error_type": ["LoadError", "ObjectMissing", "EditError", None], "attempts": [0, 0, 1, 1]}
    )
    again = carry_over.retry_filter(retry_failed=False, retry_errors={"LoadError"})
    assert again(answers).to_pylist() == [True, False, False, False]
    again = carry_over.retry_filter(retry_failed=True, retry_errors=())
    assert again(answers).to_pylist() == [True, True, True, False]
    again = carry_over.retry_filter(retry_failed=False, retry_errors=())
    assert not any(again(answers).to_pylist())


def test_a_row_that_missed_the_thresholds_is_asked_again_where_the_job_allows_more_tries_than_it_had() -> None:
    again = carry_over.retry_filter(retry_failed=False, retry_errors=(), max_candidates=6)
    statuses = ["failed_quality", "failed_quality", "success", "failed_to_edit", "failed_quality"]
    answers = pa.table({"status": statuses, "error_type": ["E"] * 5, "attempts": pa.array([4, 6, 2, 2, None])})
    assert again(answers).to_pylist() == [True, False, False, False, True], "what keeps the thresholds is not tried on"
