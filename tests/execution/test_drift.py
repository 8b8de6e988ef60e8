"""Scores of a run compared with those of earlier runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retouch.execution.drift import _compare
from retouch.execution.edit import run
from retouch.execution.summary import Summary
from retouch.jobs.config import DriftSpec, EditJob, load_job
from rich.console import Console

from tests import ROOT
from tests.helpers.datasets import painter_job, write_dataset

pytestmark = pytest.mark.slow

ROWS = 30
QUICK = ("editor.params.timesteps=3", "editor.params.aug_num=1", "candidates=1")


def run_job(folder: Path, date: str, manifest: Path, **changes: Any) -> Summary:
    job: EditJob = painter_job(folder, manifest, editor={**EDITOR, "params": {}}, **changes)
    job = job.model_copy(update={"output": str(folder / "nights" / date), "carry": str(folder / "nights/*")})
    return run(job, executor="local", console=Console(file=io.StringIO()))


EDITOR = {"name": "tests.helpers.painters:Painter", "weights": {}}


def grown(folder: Path, red: int | None) -> Path:
    """The same rows and as many new ones; with ``red`` they are painted in that grey."""
    manifest = write_dataset(folder, 2 * ROWS)
    rows = pq.read_table(manifest)
    params = [None if row < ROWS or red is None else f'{{"grey": {red}}}' for row in range(2 * ROWS)]
    pq.write_table(rows.append_column("params", pa.array(params, pa.string())), manifest)
    return manifest


@pytest.mark.parametrize(("red", "moves"), [(250, True), (None, False)])
def test_new_rows_that_score_differently_from_those_before_are_reported_as_moved(
    tmp_path: Path, red: int | None, moves: bool
) -> None:
    first = run_job(tmp_path, "01", write_dataset(tmp_path, ROWS))
    assert first.drift == ()
    second = run_job(tmp_path, "02", grown(tmp_path, red))
    assert (second.answered_now, second.carried) == (ROWS, ROWS)
    drift = {found.score: found for found in second.drift}
    assert (drift["redness"].rows, drift["redness"].earlier_rows) == (ROWS, ROWS)
    assert drift["redness"].moved is moves
    assert second.exit_code == 0


def test_a_run_whose_scores_moved_exits_with_1_if_the_job_asks_for_it(tmp_path: Path) -> None:
    run_job(tmp_path, "01", write_dataset(tmp_path, ROWS))
    second = run_job(tmp_path, "02", grown(tmp_path, 250), drift={"fail": True})
    assert second.exit_code == 1
    assert [found.score for found in second.moved] == ["redness"]
    page = Path(second.report).read_text()
    assert f"since {tmp_path / 'nights/01'}: {ROWS} new, {ROWS} unchanged" in page
    assert ">moved<" in page
    third = run_job(tmp_path, "03", grown(tmp_path, 250), drift={"fail": True})
    assert (third.answered_now, third.drift, third.exit_code) == (0, (), 0)  # a run without new rows moves nothing


def test_on_one_output_the_rows_of_this_call_are_compared_with_those_of_earlier_ones(tmp_path: Path) -> None:
    def call(manifest: Path) -> Summary:
        job = painter_job(tmp_path, manifest, editor={**EDITOR, "params": {}})
        return run(job, executor="local", console=Console(file=io.StringIO()))

    call(write_dataset(tmp_path, ROWS))
    second = call(grown(tmp_path, 250))
    assert [(found.score, found.rows, found.earlier_rows) for found in second.moved] == [("redness", ROWS, ROWS)]


def test_the_distance_is_that_of_the_distribution_functions_and_few_rows_prove_nothing() -> None:
    spec = DriftSpec(distance=0.5, p_value=0.01)
    found = _compare("s", np.arange(4.0), np.arange(4.0) + 10, spec)
    assert (found.distance, found.moved) == (1.0, False)  # four against four: p is about 0.03
    assert _compare("s", np.arange(40.0), np.arange(40.0) + 20, spec).moved
    assert not _compare("s", np.arange(40.0), np.arange(40.0) + 1, spec).moved


def test_the_shipped_judges_words_are_skipped_and_its_verdicts_compared(tmp_path: Path) -> None:
    """Of the real quickstart: three rows per run, a few steps."""
    shipped = load_job(str(ROOT / "jobs/quickstart.yaml"), QUICK)
    rows = pq.read_table(ROOT / "manifests/shapes.parquet")
    found = []
    for date, count in (("01", 3), ("02", 6)):
        pq.write_table(rows.slice(0, count), tmp_path / "rows.parquet")
        changes = {"manifest": str(tmp_path / "rows.parquet"), "output": str(tmp_path / date), "carry": f"{tmp_path}/*"}
        found.append(run(shipped.model_copy(update=changes), executor="local", console=Console(file=io.StringIO())))
    assert {drift.score for drift in found[1].drift} >= {"clip_score", "judge_agrees"}
    assert "judge_shape" not in {drift.score for drift in found[1].drift}
    assert (found[1].answered_now, found[1].carried) == (3, 3)
