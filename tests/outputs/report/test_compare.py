"""Two runs on the same keys."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from retouch import storage
from retouch.errors import OutputError
from retouch.outputs import results
from retouch.outputs.report.compare import OtherRun, compare_scores, read_other_runs
from retouch.schema import SUCCESS, results_schema

SCHEMA = results_schema({"clip_score": pa.float64(), "background_l1": pa.float64(), "right": pa.bool_()}, pa.schema([]))


def rows(**clip_scores: float | None) -> pa.Table:
    told = [
        {"key": key, "fingerprint": "f", "status": SUCCESS, "clip_score": s, "background_l1": s, "right": bool(s)}
        for key, s in clip_scores.items()
    ]
    return pa.Table.from_pylist(told, SCHEMA)


def test_a_score_counts_where_both_have_it_and_its_direction_says_which_is_better() -> None:
    mine = rows(a=1.0, b=2.0, c=3.0, mine=9.0, lacks=None)
    other = OtherRun("other", "o", rows(c=3.0, b=5.0, a=2.0, theirs=9.0, lacks=1.0))
    found = {line.score: line for line in compare_scores(mine, [other], ["clip_score", "background_l1", "right"], {})}
    assert (found["clip_score"].rows, found["clip_score"].mine, found["clip_score"].theirs) == (3, 2.0, 10 / 3)
    assert found["clip_score"].better == pytest.approx(2.5 / 3)
    assert found["background_l1"].better == pytest.approx(0.5 / 3), "less of a distance is better"
    assert (found["right"].mine, found["right"].rows) == (0.75, 4)


def test_runs_without_a_score_in_common_have_nothing_to_compare() -> None:
    other = OtherRun("other", "o", rows(a=1.0).drop_columns(["clip_score", "right"]))
    assert [line.score for line in compare_scores(rows(b=1.0), [other], ["clip_score", "background_l1"], {})] == []


def leave(folder: Path, output: str, name: str) -> str:
    place = str(folder / output)
    storage.write_bytes(f"{place}/run.json", json.dumps({"rows": 1, "job": {"name": name}}).encode())
    results.write_block(place, rows(a=1.0), epoch=1)
    return place


def test_runs_are_told_apart_by_their_jobs_else_by_their_folders(tmp_path: Path) -> None:
    outputs = [leave(tmp_path, "x/night", "one"), leave(tmp_path, "y/night", "two")]
    assert [other.name for other in read_other_runs("own", outputs)] == ["one", "two"]
    same = [leave(tmp_path, "01", "own"), leave(tmp_path, "02", "own")]
    assert [other.name for other in read_other_runs("own", same)] == ["01", "02"]
    alike = [leave(tmp_path, "x/03", "own"), leave(tmp_path, "y/03", "own")]
    assert [other.name for other in read_other_runs("own", alike)] == alike


def test_a_folder_that_holds_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no run"):
        read_other_runs("own", [str(tmp_path)])
