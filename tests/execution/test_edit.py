"""A job from start to end in this process: counts, resume, refusal, verification."""

from __future__ import annotations

import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from retouch.errors import Busy, ConfigError, Interrupted, OutputError, OverBudget, OverCost, StopRun
from retouch.execution.edit import MIN_FAILURES_TO_STOP, run
from retouch.execution.executors import local
from retouch.execution.plan import make_plan, plan_under_lease
from retouch.execution.summary import Summary
from retouch.execution.tracing import PHASES
from retouch.imaging.regions import grown
from retouch.jobs.config import EditJob
from retouch.outputs import results
from retouch.outputs.status import read_status
from retouch.outputs.verify import verify_output
from retouch.schema import FAILED_TO_EDIT, FAILED_TO_LOAD, STATUSES, SUCCESS
from rich.console import Console

from tests.helpers.answers import answered
from tests.helpers.datasets import painter_job, picture, square, write_dataset


def quiet(job: EditJob, **options: Any) -> Summary:
    return run(job, executor="local", console=Console(file=io.StringIO()), **options)


def hashes(job: EditJob) -> dict[str, str]:
    table = results.read(job.output, ["key", "sha256"])
    return dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def test_every_row_is_answered_and_the_summary_adds_up(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 8, {2: "raise"}), max_failure_rate=0.2)
    summary = quiet(job)
    assert (summary.rows, summary.answered_now, summary.exit_code) == (8, 8, 0)
    assert sum(summary.statuses.values()) == 8
    assert summary.statuses["failed_to_edit"] == 1
    left = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert left["statuses"] == summary.statuses
    assert set(left["timing"]) == set(summary.timing) == {*PHASES, "first_image"}
    assert 0 < summary.timing["edit"] < summary.timing["first_image"] + summary.timing["edit"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    proof = verify_output(job.output)
    assert proof.ok, proof.text()


def test_reading_the_results_folder_plainly_gives_each_key_once_with_the_callers_columns(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 8))
    quiet(job)
    plain = pq.read_table(tmp_path / "out" / "results")
    assert sorted(plain["key"].to_pylist()) == [f"row-{i:03d}" for i in range(8)]
    assert str(plain.schema.field("label").type) == "int16"
    assert dict(zip(plain["key"].to_pylist(), plain["label"].to_pylist(), strict=True))["row-005"] == 5


def test_outside_the_mask_no_pixel_of_any_output_file_differs(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 5))
    quiet(job)
    for row in results.read(job.output).to_pylist():
        after = np.asarray(Image.open(Path(job.output) / row["output"]).convert("RGB"))
        before = picture(row["label"])
        assert np.array_equal(after[square() == 0], before[square() == 0])
        assert row["background_changed_px"] == 0
        assert hashlib.sha256((Path(job.output) / row["output"]).read_bytes()).hexdigest() == row["sha256"]


def test_failures_over_the_budget_end_with_code_1(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 4, {0: "raise"}), max_failure_rate=0.2)
    assert quiet(job).exit_code == 1


def test_a_finished_run_run_again_does_nothing_and_says_so(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 4))
    quiet(job)
    before = hashes(job)
    again = quiet(job)
    assert (again.answered_now, again.rows) == (0, 4)
    assert hashes(job) == before


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_what_was_committed_before_a_kill_is_kept_and_the_rest_is_done(tmp_path: Path, killed_after: int) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 8))
    whole = painter_job(tmp_path, job.manifests[0], output=str(tmp_path / "whole"))
    quiet(whole)
    plan = make_plan(job)
    from retouch.execution.plan import open_run

    open_run(plan)
    blocks = local.execute(plan)
    for _ in range(killed_after):
        next(blocks)
    del blocks  # as a kill leaves it: nothing is closed, compacted or summed up
    summary = quiet(job)
    assert summary.answered_now == 8 - 3 * killed_after
    assert hashes(job) == hashes(whole)
    assert verify_output(job.output).ok


def test_retry_failed_does_failed_rows_again_and_no_others(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 5)
    hidden = tmp_path / "files" / "3.png"
    data = hidden.read_bytes()
    hidden.unlink()
    job = painter_job(tmp_path, manifest, max_failure_rate=1.0)
    assert quiet(job).statuses["failed_to_load"] == 1
    hidden.write_bytes(data)
    assert quiet(job, retry_failed=True).answered_now == 1
    table = pq.read_table(tmp_path / "out" / "results")
    assert table["status"].to_pylist() == ["success"] * 5
    assert verify_output(job.output).ok


def test_one_error_class_alone_is_done_again(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 5, {1: "raise"})
    hidden = tmp_path / "files" / "3.png"
    data = hidden.read_bytes()
    hidden.unlink()
    job = painter_job(tmp_path, manifest, max_failure_rate=1.0)
    assert quiet(job).statuses == {**dict.fromkeys(STATUSES, 0), SUCCESS: 3, FAILED_TO_LOAD: 1, FAILED_TO_EDIT: 1}
    hidden.write_bytes(data)
    assert quiet(job, retry_errors=["WorkerLost"]).answered_now == 1, "the file's row alone, whose input is there now"
    again = quiet(job, retry_errors=["EditError"])
    assert (again.answered_now, again.statuses[FAILED_TO_EDIT]) == (1, 1)


def test_a_run_that_cannot_keep_its_failure_budget_stops_and_says_the_commonest_errors(tmp_path: Path) -> None:
    rows = 2 * MIN_FAILURES_TO_STOP
    job = painter_job(tmp_path, write_dataset(tmp_path, rows, dict.fromkeys(range(rows), "raise")))
    with pytest.raises(OverBudget, match=r"51 rows failed, and .* 0\.0% allows 0 of 100; most common: 51 x") as error:
        quiet(job)
    assert error.value.exit_code == 1
    assert "EditError: this prompt cannot be edited" in str(error.value)
    kept = len(answered(job.output))
    assert MIN_FAILURES_TO_STOP <= kept < rows
    mended = job.model_copy(update={"max_failure_rate": 1.0})
    assert quiet(mended).answered_now == rows - kept


def prices(folder: Path, per_hour: float) -> str:
    path = folder / "prices.yaml"
    path.write_text(f"{{currency: USD, devices: [{{names: [cpu], per_hour: {per_hour}}}]}}")
    return str(path)


def test_max_cost_stops_a_run_which_goes_on_and_counts_what_was_spent_before(tmp_path: Path) -> None:
    job = painter_job(
        tmp_path,
        write_dataset(tmp_path, 24),
        editor={"name": "tests.helpers.slow:SlowPainter", "weights": {}},
        max_cost=1.0,
    )
    table = prices(tmp_path, 3600.0)  # a dollar a second
    with pytest.raises(
        OverCost, match=r"max_cost 1 USD: all runs on this output spent 1\.\d+ USD.* need about .* to resume"
    ) as error:
        quiet(job, price_table=table)
    assert error.value.exit_code == 3
    kept = len(answered(job.output))
    assert 0 < kept < 24
    assert f"{kept} of 24 rows done" in str(error.value)
    before = read_status(job.output)
    assert before.state == "stopped"
    with pytest.raises(OverCost, match="run the same command again"):
        quiet(job, price_table=table)
    assert len(answered(job.output)) == kept, "what was spent counts: nothing more is begun"
    summary = quiet(job.model_copy(update={"max_cost": 1000.0}), price_table=table)
    assert summary.answered_now == 24 - kept
    assert summary.cost is not None
    assert summary.cost > (before.spending.cost or 0.0) + 1.0
    assert verify_output(job.output).ok


def test_max_cost_without_a_price_is_refused_with_how_to_give_one(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 3), max_cost=1.0)
    with pytest.raises(ConfigError, match=r"max_cost is 1, and no price is known for 'cpu': .*--prices") as error:
        quiet(job)
    assert error.value.exit_code == 2
    assert not answered(job.output)


def test_the_summary_says_what_a_run_cost_where_that_is_known(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 3))
    summary = quiet(job, limit=2)
    assert (summary.cost, list(summary.device_seconds)) == (None, ["cpu"])
    again = quiet(job, price_table=prices(tmp_path, 3600.0))
    assert again.cost is not None
    assert again.cost > again.device_seconds["cpu"] * 0.99
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["cost"] == again.cost


def test_two_runs_at_once_on_one_output_leave_one_answer_a_row(tmp_path: Path) -> None:
    """Both start; one is told to wait. Whoever comes back later does what is left."""
    job = painter_job(
        tmp_path, write_dataset(tmp_path, 40), editor={"name": "tests.helpers.slow:SlowPainter", "weights": {}}
    )
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(quiet, job, lease_seconds=3.0) for _ in range(2)]
        errors = [future.exception() for future in both]
    busy = [error for error in errors if error is not None]
    assert len(busy) == 1
    assert isinstance(busy[0], Busy)
    assert quiet(job).answered_now == 0
    assert verify_output(job.output).ok


def test_what_another_run_answered_before_the_lease_was_ours_is_not_done_again(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 6))
    plan = make_plan(job)
    quiet(job, limit=4)
    late = plan_under_lease(plan, 9)
    assert (late.left, late.write.epoch) == (2, 9)


def test_a_changed_job_on_the_same_output_is_refused_field_by_field(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 3)
    quiet(painter_job(tmp_path, manifest))
    editor = {"name": "tests.helpers.painters:Painter", "weights": {}, "params": {"grey": 9}}
    changed = painter_job(tmp_path, manifest, seed=5, editor=editor, ray={"batch_size": 8})
    with pytest.raises(OutputError, match=r"grey: null -> 9; ray\.batch_size: 4 -> 8; seed: 0 -> 5") as error:
        quiet(changed)
    assert error.value.exit_code == 2


def test_a_mended_job_may_use_the_output_in_which_the_wrong_one_answered_nothing(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 2)
    wrong = painter_job(tmp_path, manifest, metrics=[{"name": "clip_score"}])  # needs weights that the job lacks
    with pytest.raises(StopRun, match="clip"):
        quiet(wrong)
    assert quiet(painter_job(tmp_path, manifest)).exit_code == 0


def test_how_the_work_is_spread_may_change_between_two_runs(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 5)
    quiet(painter_job(tmp_path, manifest), limit=2)
    again = quiet(painter_job(tmp_path, manifest, ray={"batch_size": 4, "rows_per_block": 1}, max_failure_rate=0.5))
    assert again.answered_now == 3


def test_a_grown_manifest_adds_its_new_rows(tmp_path: Path) -> None:
    quiet(painter_job(tmp_path, write_dataset(tmp_path, 3)))
    grown = painter_job(tmp_path, write_dataset(tmp_path, 5))
    assert quiet(grown).answered_now == 2
    assert verify_output(grown.output).ok


def test_a_limit_answers_the_first_rows_and_verifies(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 6))
    assert quiet(job, limit=2).rows == 2
    assert verify_output(job.output).ok
    assert quiet(job).answered_now == 4


def test_a_shuffled_manifest_and_another_block_size_give_the_same_files(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 7)
    job = painter_job(tmp_path, manifest, candidates=3)
    quiet(job)
    table = pq.read_table(manifest)
    pq.write_table(table.take(np.random.default_rng(1).permutation(7)), tmp_path / "shuffled.parquet")
    other = painter_job(
        tmp_path,
        tmp_path / "shuffled.parquet",
        output=str(tmp_path / "other"),
        candidates=3,
        ray={"batch_size": 4, "rows_per_block": 5},
    )
    quiet(other)
    assert hashes(job) == hashes(other)


def test_verify_names_what_is_missing_or_changed(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 4))
    quiet(job)
    rows = results.read(job.output).to_pylist()
    gone, changed = Path(job.output) / rows[0]["output"], Path(job.output) / rows[1]["output"]
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b" ")
    proof = verify_output(job.output)
    assert not proof.ok
    assert "row-000" in proof.text()
    assert "row-001" in proof.text()


def test_verify_names_a_row_that_was_deleted_from_the_results(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 4))
    quiet(job)
    (file,) = (tmp_path / "out" / "results").glob("*.parquet")
    table = pq.read_table(file)
    pq.write_table(table.filter([key != "row-002" for key in table["key"].to_pylist()]), file)
    proof = verify_output(job.output)
    assert not proof.ok
    assert proof.missing_rows == ("row-002",)
    assert "row-002" in proof.text()


def test_status_reads_counts_from_storage_alone(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 6, {1: "raise"}), max_failure_rate=1.0)
    quiet(job, limit=4)
    status = read_status(job.output)
    assert (status.answered, status.rows, status.state) == (4, 4, "finished")
    assert status.statuses["failed_to_edit"] == 1
    assert "4/4 rows done" in status.text()
    with pytest.raises(OutputError, match="holds no run"):
        read_status(str(tmp_path / "nothing"))


def test_columns_that_would_hide_results_columns_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 2, redness=[1.0, 2.0]))
    with pytest.raises(StopRun, match="redness"):
        quiet(job)
    assert not (tmp_path / "out").exists()


def test_an_executor_that_loses_rows_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 8))
    whole = local.execute

    def forgetful(plan: Any, met: Any) -> Any:
        yield next(whole(plan, met))

    monkeypatch.setattr(local, "execute", forgetful)
    with pytest.raises(Interrupted, match="5 rows have no result"):
        quiet(job)


def test_a_larger_budget_of_the_gate_tries_only_rows_that_missed_and_leaves_what_passed(tmp_path: Path) -> None:
    def gated(rounds: int) -> EditJob:
        quality = {"mode": "retry", "thresholds": {"distance": {"max": 0.3}}, "rounds": rounds}
        return painter_job(tmp_path, manifest, quality=quality, max_failure_rate=1.0)

    manifest = write_dataset(tmp_path, 12, {5: "raise"})
    first = quiet(gated(1))
    missed = first.statuses["failed_quality"]
    assert 0 < missed < 11
    before = hashes(gated(1))
    second = quiet(gated(6))
    assert second.answered_now == missed
    assert second.statuses["failed_quality"] < missed
    table = results.read(second.output, ["key", "status", "attempts", "sha256", "distance"]).to_pylist()
    assert all(row["distance"] <= 0.3 for row in table if row["status"] == SUCCESS)
    assert {row["attempts"] for row in table if row["status"] == "failed_quality"} <= {6}
    assert sum(row["sha256"] == before[row["key"]] for row in table) >= 12 - missed
    assert quiet(gated(6)).answered_now == 0
    assert quiet(gated(2)).answered_now == 0, "a smaller budget takes nothing back"
    assert verify_output(second.output).ok


def test_the_summary_says_how_many_rows_came_how_far(tmp_path: Path) -> None:
    quality = {"mode": "reject", "thresholds": {"distance": {"max": 0.5}}}
    manifest = write_dataset(tmp_path, 8, {1: "raise"})
    (tmp_path / "files/3.png").unlink()
    summary = quiet(painter_job(tmp_path, manifest, quality=quality, candidates=2, max_failure_rate=1.0))
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["funnel"]
    counts = {station["name"]: station["rows"] for station in told["stations"]}
    assert (counts["read"], counts["loaded"], counts["edited"]) == (8, 7, 6)
    assert counts["kept"] == counts["passed the gate"] == summary.statuses[SUCCESS]
    assert told["tries"] == 14
    assert f"{counts['passed the gate']} passed the gate" in (tmp_path / "out" / "report.html").read_text()


def test_a_grown_and_feathered_mask_keeps_all_pixels_outside_the_grown_one(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 4)
    plain, soft = (
        painter_job(tmp_path, manifest, output=str(tmp_path / name), mask=mask)
        for name, mask in {"plain": {}, "soft": {"grow": 3, "feather": 4, "context": 1.0}}.items()
    )
    for job in (plain, soft):
        assert quiet(job).statuses["success"] == 4
    for before, row in zip(results.read(plain.output).to_pylist(), results.read(soft.output).to_pylist(), strict=True):
        assert row["background_changed_px"] == 0
        number = int(row["key"].removeprefix("row-"))
        source, mask = picture(number), square() > 0
        wide = grown(mask, 3)
        assert wide.sum() > mask.sum()
        edited = np.asarray(Image.open(tmp_path / "soft" / row["output"]))
        sharp = np.asarray(Image.open(tmp_path / "plain" / before["output"]))
        assert np.array_equal(edited[~wide], source[~wide])
        edge = wide & ~mask
        assert (edited[edge] != source[edge]).any()
        colour = sharp[mask][0].astype(int)
        away = np.abs(edited.astype(int) - colour).sum(axis=-1)
        assert away[edge].mean() > away[grown(mask, -3)].mean()


def test_a_mask_that_is_narrowed_away_fails_its_row(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 2), mask={"grow": -500}, max_failure_rate=1.0)
    assert quiet(job).statuses["failed_to_load"] == 2
    assert "mask.grow: -500 leaves nothing of the mask" in results.read(job.output).to_pylist()[0]["error_message"]


@pytest.mark.slow
def test_an_edit_in_its_place_has_the_same_file_with_and_without_align(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 2)
    jobs = [painter_job(tmp_path, manifest, output=str(tmp_path / str(align)), align=align) for align in (False, True)]
    for job in jobs:
        quiet(job)
    assert hashes(jobs[0]) == hashes(jobs[1])


@pytest.mark.slow
def test_an_edit_that_the_model_shifted_is_moved_back(tmp_path: Path) -> None:
    editor = {"name": "tests.helpers.painters:Shifter", "weights": {}, "params": {"size": 64}}
    manifest = write_dataset(tmp_path, 2)
    found = {}
    for align in (False, True):
        job = painter_job(
            tmp_path,
            manifest,
            output=str(tmp_path / str(align)),
            editor=editor,
            metrics=["shift_px"],
            align=align,
            fit="resize",
        )
        quiet(job)
        found[align] = results.read(job.output, ["shift_px"])["shift_px"].to_pylist()
    assert found[False] == pytest.approx([4.0, 4.0], abs=0.2)
    assert found[True] == pytest.approx([0.0, 0.0], abs=0.2)
