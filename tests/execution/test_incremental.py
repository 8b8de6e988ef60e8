"""Incremental runs over a growing manifest: what is edited, carried over, retired and reported."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retouch import storage
from retouch.errors import Busy
from retouch.execution.edit import run
from retouch.execution.incremental import find_baseline
from retouch.execution.plan import make_plan
from retouch.execution.rerun import rerun
from retouch.execution.summary import Summary
from retouch.jobs.config import EditJob, load_job
from retouch.models.pixel_unet import PixelUNet
from retouch.outputs import changes, image_paths, lease, results
from retouch.outputs.carry_over import retry_filter
from retouch.outputs.report import gallery
from retouch.outputs.verify import verify_output
from rich.console import Console

from tests import ROOT
from tests.helpers.datasets import painter_job, write_dataset
from tests.helpers.painters import Painter

pytestmark = pytest.mark.slow

ROWS = 12


def run_job(job: EditJob, **options: Any) -> tuple[Summary, str]:
    printed = io.StringIO()
    return run(job, executor="local", console=Console(file=printed, width=200), **options), printed.getvalue()


def nightly(folder: Path, date: str, manifest: Path, **changes: Any) -> EditJob:
    job = painter_job(folder, manifest, ray={"batch_size": 1}, **changes)
    return job.model_copy(update={"output": str(folder / "nights" / date), "carry": str(folder / "nights/*")})


def table(manifest: Path) -> pa.Table:
    return pq.read_table(manifest)


def with_prompts(rows: pa.Table, prompts: dict[int, str]) -> pa.Table:
    texts = [prompts.get(row, text) for row, text in enumerate(rows["prompt"].to_pylist())]
    return rows.set_column(rows.column_names.index("prompt"), "prompt", pa.array(texts))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return Path(write_dataset(tmp_path, ROWS))


@pytest.fixture(autouse=True)
def _count_from_none() -> None:
    Painter.calls.clear()


def three_runs(folder: Path, manifest: Path, *, dated: bool) -> list[tuple[Summary, str, int]]:
    """8 rows; 12 with 2 changed; 9. With each run's summary, messages and calls of the editor."""
    everything = table(manifest)
    changed = with_prompts(everything, {1: "another", 4: "another"})
    found = []
    for date, rows in (("01", everything.slice(0, 8)), ("02", changed), ("03", changed.slice(0, 9))):
        pq.write_table(rows, manifest)
        before = len(Painter.calls)
        job = nightly(folder, date if dated else "all", manifest)
        found.append(
            (*run_job(job if dated else job.model_copy(update={"carry": "auto"})), len(Painter.calls) - before)
        )
    return found


@pytest.mark.parametrize("dated", [True, False])
def test_only_new_and_changed_rows_cost_a_pass_and_removed_ones_are_reported(
    tmp_path: Path, manifest: Path, dated: bool
) -> None:
    first, second, third = three_runs(tmp_path, manifest, dated=dated)
    assert [calls for *_, calls in (first, second, third)] == [8, 4 + 2, 0]
    assert second[0].changes == {"new": 4, "changed": 2, "removed": 0, "left_over": 0, "unchanged": 6}
    assert third[0].changes == {"new": 0, "changed": 0, "removed": 3, "left_over": 0, "unchanged": 9}
    assert "3 removed, 9 unchanged" in third[1]
    assert "since nothing" not in first[1]
    assert (second[0].carried, third[0].carried) == ((6, 9) if dated else (0, 0))


@pytest.mark.parametrize("dated", [True, False])
def test_the_results_of_each_run_are_those_of_its_manifest_and_verify(
    tmp_path: Path, manifest: Path, dated: bool
) -> None:
    summaries = [summary for summary, *_ in three_runs(tmp_path, manifest, dated=dated)]
    last = summaries[-1]
    assert verify_output(last.output).ok, verify_output(last.output).text()
    assert results.read(last.output)["key"].to_pylist() == [f"row-{row:03d}" for row in range(9)]
    removed = json.loads((Path(last.output) / "summary.json").read_text())["changes"]["removed"]
    assert removed == 3
    gone = changes.read(changes.history(last.output)[0]).of(changes.REMOVED)
    assert sorted(gone.to_pylist()) == ["row-009", "row-010", "row-011"]


def test_a_carried_row_refers_to_the_image_of_the_run_that_made_it(tmp_path: Path, manifest: Path) -> None:
    first, _, third = three_runs(tmp_path, manifest, dated=True)
    rows = {row["key"]: row for row in results.read(third[0].output).to_pylist()}
    assert rows["row-000"]["carried_from"] == str(tmp_path / "nights/01")
    assert rows["row-001"]["carried_from"] == str(tmp_path / "nights/02")  # changed in that run
    assert rows["row-000"]["output"].startswith(str(tmp_path / "nights/01/images/"))
    data = image_paths.read_image(third[0].output, rows["row-000"]["output"])
    assert hashlib.sha256(data).hexdigest() == rows["row-000"]["sha256"]
    own = {row["key"]: row["sha256"] for row in results.read(first[0].output).to_pylist()}
    assert own["row-000"] == rows["row-000"]["sha256"]
    assert rows["row-000"]["label"] == 0  # the caller's columns are there
    page = Path(third[0].report).read_text()
    assert rows["row-000"]["output"] in page  # a link to where it lies
    assert "<b>3</b> removed" in page
    assert rerun(third[0].output, "row-000").verdict == "identical"


def test_verify_reports_a_deleted_image_of_an_earlier_run(tmp_path: Path, manifest: Path) -> None:
    third = three_runs(tmp_path, manifest, dated=True)[2][0]
    rows = {row["key"]: row for row in results.read(third.output).to_pylist()}
    Path(rows["row-000"]["output"]).unlink()
    assert verify_output(third.output).missing_images == (rows["row-000"]["output"],)


def test_a_change_of_a_callers_column_alone_costs_nothing_and_is_in_the_results(tmp_path: Path, manifest: Path) -> None:
    run_job(nightly(tmp_path, "01", manifest))
    rows = table(manifest)
    labels = pa.array([label + 100 for label in rows["label"].to_pylist()], pa.int16())
    pq.write_table(rows.set_column(rows.column_names.index("label"), "label", labels), manifest)
    summary, _ = run_job(nightly(tmp_path, "02", manifest))
    assert (summary.answered_now, summary.carried) == (0, ROWS)
    assert results.read(summary.output, ["label"])["label"].to_pylist() == [row + 100 for row in range(ROWS)]


def test_a_row_that_left_the_manifest_and_comes_back_is_not_edited_again(tmp_path: Path, manifest: Path) -> None:
    job = painter_job(tmp_path, manifest)
    everything = table(manifest)
    run_job(job)
    before = verify_output(job.output)
    pq.write_table(everything.slice(0, 5), manifest)
    run_job(job)
    calls = len(Painter.calls)
    pq.write_table(everything, manifest)
    summary, _ = run_job(job)
    assert (len(Painter.calls), summary.carried) == (calls, ROWS - 5)
    after = verify_output(job.output)
    assert after.ok, after.text()
    assert after.digest == before.digest


def test_rows_that_a_run_did_not_reach_are_left_over_and_those_it_did_are_carried_over(
    tmp_path: Path, manifest: Path
) -> None:
    run_job(nightly(tmp_path, "01", manifest))
    rows = table(manifest)
    pq.write_table(with_prompts(rows, dict.fromkeys(range(6), "another")), manifest)
    second = nightly(tmp_path, "02", manifest)
    run_job(second, limit=4)  # of the six that changed, four
    storage.delete(f"{second.output}/summary.json")  # as a run that was killed leaves it
    requests = results.read_requests(second.output)
    assert len(requests) == 4
    Painter.calls.clear()
    summary, _ = run_job(nightly(tmp_path, "03", manifest))
    assert len(Painter.calls) == 2
    assert summary.carried == ROWS - 2


def test_a_resumed_run_reports_the_changes_that_it_started_with(tmp_path: Path, manifest: Path) -> None:
    run_job(nightly(tmp_path, "01", manifest))
    rows = table(manifest)
    pq.write_table(with_prompts(rows, {0: "another", 1: "another"}), manifest)
    job = nightly(tmp_path, "02", manifest)
    summary, _ = run_job(job)
    for file in results.files(job.output):  # as if it had been killed after committing the carried rows
        kept = pq.read_table(file)
        pq.write_table(kept.filter(pa.array([by is not None for by in kept["carried_from"].to_pylist()])), file)
    again, _ = run_job(job)
    assert again.answered_now == 2
    assert again.changes == summary.changes
    assert summary.changes["changed"] == 2


def test_failures_are_carried_over_too_unless_they_are_retried(tmp_path: Path, manifest: Path) -> None:
    pq.write_table(with_prompts(table(manifest), {3: "raise"}), manifest)
    run_job(nightly(tmp_path, "01", manifest, max_failure_rate=1.0))
    second, _ = run_job(nightly(tmp_path, "02", manifest, max_failure_rate=1.0))
    assert (second.answered_now, second.statuses["failed_to_edit"]) == (0, 1)
    third, _ = run_job(nightly(tmp_path, "03", manifest, max_failure_rate=1.0), retry_failed=True)
    assert (third.answered_now, third.carried) == (1, ROWS - 1)


def test_results_of_another_job_are_not_carried_over_and_a_note_has_why(tmp_path: Path, manifest: Path) -> None:
    run_job(nightly(tmp_path, "01", manifest))
    summary, printed = run_job(nightly(tmp_path, "02", manifest, seed=7))
    assert summary.answered_now == ROWS
    assert "another job" in printed
    assert "seed: 0 -> 7" in printed


def test_a_run_does_not_start_while_the_one_before_is_active(tmp_path: Path, manifest: Path) -> None:
    first = nightly(tmp_path, "01", manifest)
    run_job(first, limit=2)
    storage.delete(f"{first.output}/summary.json")
    with lease.held(first.output, seconds=1.0), pytest.raises(Busy, match="being written by"):
        run_job(nightly(tmp_path, "02", manifest))
    second = nightly(tmp_path, "02", manifest)
    with lease.held(first.output, seconds=1.0):  # its cost can be planned all the same
        plan, baseline = find_baseline(make_plan(second), retry_filter(False, ()), wait=False)
    assert (plan.left, baseline.carried.num_rows) == (ROWS - 2, 2)
    assert run_job(second)[0].carried == 2


def test_the_gallery_of_an_unfinished_run_shows_its_changes(tmp_path: Path, manifest: Path) -> None:
    run_job(nightly(tmp_path, "01", manifest))
    second = nightly(tmp_path, "02", manifest)
    run_job(second)
    storage.delete(f"{second.output}/summary.json")
    page = storage.read_bytes(gallery.write(second.output)).decode()
    assert f"{ROWS} unchanged" in page


def test_carry_none_edits_everything(tmp_path: Path, manifest: Path) -> None:
    run_job(nightly(tmp_path, "01", manifest))
    job = nightly(tmp_path, "02", manifest).model_copy(update={"carry": "none"})
    assert run_job(job)[0].answered_now == ROWS


def test_runs_on_s3_refer_to_each_other_by_absolute_addresses(tmp_path: Path, manifest: Path, moto_s3: str) -> None:
    job = nightly(tmp_path, "01", manifest).model_copy(
        update={"output": f"{moto_s3}/nights/01", "carry": f"{moto_s3}/nights/*"}
    )
    run_job(job)
    second, _ = run_job(job.model_copy(update={"output": f"{moto_s3}/nights/02"}))
    assert second.carried == ROWS
    row = results.read(second.output).to_pylist()[0]
    assert row["output"].startswith(f"{moto_s3}/nights/01/images/")
    assert verify_output(second.output).ok
    assert gallery.render(gallery.read(second.output))
    assert np.all([by == f"{moto_s3}/nights/01" for by in results.read(second.output)["carried_from"].to_pylist()])


STEPS = 2
SHORT = (f"editor.params.timesteps={STEPS}", "editor.params.skip_timesteps=0", "editor.params.aug_num=1")


@pytest.mark.slow
def test_three_runs_of_the_shipped_job_cost_the_unets_calls_for_new_and_changed_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 rows; 130 with 10 changed; 125."""
    shipped = load_job(str(ROOT / "jobs/quickstart.yaml"), (*SHORT, "candidates=1", "ray.batch_size=1", "metrics=[]"))
    calls: list[int] = []
    forward = PixelUNet.forward

    def counted(self: Any, x: Any, *args: Any, **options: Any) -> Any:
        calls.append(len(x))
        return forward(self, x, *args, **options)

    monkeypatch.setattr(PixelUNet, "forward", counted)
    drawn = pq.read_table(ROOT / "manifests/shapes.parquet")
    rows = pa.concat_tables([drawn] * 5).slice(0, 130)
    keys = pa.array([f"row-{number:03d}" for number in range(130)])
    rows = rows.set_column(rows.column_names.index("key"), "key", keys)
    prompts = rows["prompt"].to_pylist()
    others = {row: prompts[row - 1] if prompts[row - 1] != prompts[row] else prompts[row + 1] for row in range(20, 30)}
    changed = with_prompts(rows, others)
    found = []
    for date, present in (("01", rows.slice(0, 100)), ("02", changed), ("03", changed.slice(0, 125))):
        pq.write_table(present, tmp_path / "rows.parquet")
        before = sum(calls)
        address = {"manifest": str(tmp_path / "rows.parquet"), "output": str(tmp_path / date), "carry": f"{tmp_path}/*"}
        summary, _ = run_job(shipped.model_copy(update=address))
        assert verify_output(summary.output).ok
        found.append((sum(calls) - before, summary.changes["changed"], summary.changes["removed"], summary.carried))
    assert found == [(100 * STEPS, 0, 0, 0), ((30 + 10) * STEPS, 10, 0, 90), (0, 0, 5, 125)]
