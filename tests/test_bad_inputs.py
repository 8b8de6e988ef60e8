"""The corpus of bad input: each case has its expected status, in a run and in a check, and harms no other row."""

from __future__ import annotations

import filecmp
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from retouch.errors import RetouchError
from retouch.execution.check import CheckReport, check
from retouch.execution.edit import run
from retouch.execution.summary import Summary
from retouch.imaging import codec
from retouch.jobs.config import EditJob, load_job
from retouch.outputs import results
from retouch.outputs.verify import verify_output
from retouch.schema import SUCCESS
from rich.console import Console

from manifests import bad_files, make_bad_inputs
from manifests.bad_jobs import CANARY
from tests.helpers.datasets import painter_job

# What each set of rows is for; the painter has no network, so that many rows cost little.
EDITORS: dict[str, dict[str, Any]] = {
    "rows": {"name": "tests.helpers.painters:Painter", "weights": {}},
    "exemplars": {"name": "paint_by_example", "params": {"steps": 2}},
    "prompts": {"name": "diffusionclip", "params": {"t_0": 101, "n_inv": 2, "n_gen": 2, "optimise": 1, "n_train": 2}},
    "tokens": {"name": "blended_diffusion", "params": {"timesteps": 4, "skip_timesteps": 1, "aug_num": 1}},
}
Answer = tuple[str, str | None]  # status and error's class
# Pillow warns about images that it refuses or repairs; such a warning is not a fault of the code.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    make_bad_inputs.make(folder)
    return folder


@pytest.fixture(scope="module")
def painted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> EditJob:
    """The job that recorded all of the set ``rows``."""
    job = job_of(corpus, "rows", tmp_path_factory.mktemp("painted"))
    assert quiet(job).exit_code == 0  # its budget holds any number of failures
    return job


def job_of(corpus: Path, name: str, folder: Path, **changes: Any) -> EditJob:
    editor = {"weights": "embedded:shapes", **EDITORS.get(name, EDITORS["rows"])}
    plain = {"editor": editor, "metrics": [], "ray": {"batch_size": 4}, "max_failure_rate": 1.0}
    return painter_job(folder, corpus / f"{name}.parquet", **{**plain, **changes})


def quiet(job: EditJob, **options: Any) -> Summary:
    return run(job, **{"executor": "local", "console": Console(file=io.StringIO()), **options})


def in_a_file(job: EditJob, folder: Path) -> str:
    (folder / "job.json").write_text(json.dumps(job.model_dump(mode="json")))
    return str(folder / "job.json")


def rows_of(corpus: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(corpus / f"{name}.parquet").to_pylist()
    return rows


def expected(rows: list[dict[str, Any]]) -> dict[str, Answer]:
    return {row["key"]: (row["expect_status"], row["expect_error"]) for row in rows}


def recorded(output: str) -> dict[str, Answer]:
    return {row["key"]: (row["status"], row["error_type"]) for row in results.read(output).to_pylist()}


def predicted(checkup: CheckReport, rows: list[dict[str, Any]]) -> dict[str, Answer]:
    failed = {key: (failure.status, failure.type) for key, failure in checkup.failed.items()}
    return {row["key"]: failed.get(row["key"], (SUCCESS, None)) for row in rows}


def hinted(checkup: CheckReport, key: str) -> list[str]:
    return sorted(name for name, keys in checkup.hints.items() if key in keys)


def test_the_corpus_has_hundreds_of_cases_and_is_the_same_every_time(corpus: Path, tmp_path: Path) -> None:
    again = tmp_path / corpus.name
    names = [case for table in make_bad_inputs.make(again).values() for case in table["case"].to_pylist()]
    assert len(names) + len(json.loads((corpus / "cases.json").read_text())) > 200
    there = sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*") if path.is_file())
    assert there == sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file())
    alike = [path for path in there if not path.endswith((".yaml", "code.pt"))]  # those name the folder
    assert filecmp.cmpfiles(corpus, again, alike, shallow=False)[1:] == ([], [])


@pytest.mark.parametrize("name", list(EDITORS))
def test_every_row_has_its_expected_status_and_the_check_predicts_it(corpus: Path, tmp_path: Path, name: str) -> None:
    job, rows = job_of(corpus, name, tmp_path), rows_of(corpus, name)
    found = check(in_a_file(job, tmp_path))
    assert not (tmp_path / "out").exists()
    assert predicted(found, rows) == expected(rows)
    assert {row["case"]: hinted(found, row["key"]) for row in rows} == {r["case"]: r["expect_hints"] for r in rows}
    assert quiet(job).exit_code == 0
    assert recorded(job.output) == expected(rows)
    assert quiet(job_of(corpus, name, tmp_path, max_failure_rate=0.0)).exit_code == found.exit_code == 1
    assert verify_output(job.output).ok


def test_no_key_leads_out_of_the_folder_of_images(painted: EditJob) -> None:
    rows = results.read(painted.output).to_pylist()
    folder = Path(painted.output) / "images"
    written = {path.relative_to(painted.output).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {row["output"] for row in rows if row["status"] == SUCCESS}
    assert all(".." not in Path(address).parts for address in written)
    assert {path.name for path in Path(painted.output).parent.iterdir()} == {"out"}


def test_a_mask_saved_as_jpeg_marks_what_was_drawn_and_none_of_the_noise(corpus: Path) -> None:
    (row,) = [row for row in rows_of(corpus, "rows") if row["case"] == "mask-noisy"]
    data, drawn = row["mask"]["bytes"], bad_files.box(90, 130) > 0
    assert np.array_equal(codec.decode_mask(data), drawn)
    assert codec.decode_mask(data, threshold=1).sum() > 1.01 * drawn.sum()  # as the authors' code takes it


def test_a_wrong_job_is_refused_alike_by_check_and_run_and_no_code_in_weights_runs(
    corpus: Path, tmp_path: Path
) -> None:
    cases = [case for case in json.loads((corpus / "cases.json").read_text()) if case["foreseen"]]
    wanted = {case["case"]: (case["exit_code"], case["error"]) for case in cases}
    targets = {case["case"]: str(corpus / case["check"]) for case in cases}

    def ran(target: str) -> Summary:
        return quiet(load_job(target) if target.endswith(".yaml") else painter_job(tmp_path, target))

    assert {case: outcome_of(check, target) for case, target in targets.items()} == wanted
    assert {case: outcome_of(ran, target) for case, target in targets.items()} == wanted
    assert not (corpus / CANARY).exists()


def outcome_of(action: Callable[[str], CheckReport | Summary], target: str) -> tuple[int, str | None]:
    """Exit code and the error's class, as the command would end."""
    try:
        return action(target).exit_code, None
    except RetouchError as error:
        return error.exit_code, type(error).__name__


def test_code_in_a_pickle_does_run_where_nothing_refuses_it(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    pickle.loads(bad_files.code_in_a_pickle(str(tmp_path / CANARY), zipped=False)).close()
    assert (tmp_path / CANARY).exists()


def test_networks_that_give_no_image_fail_their_rows_and_paint_nothing_black(corpus: Path) -> None:
    cases = [case for case in json.loads((corpus / "cases.json").read_text()) if not case["foreseen"]]
    assert cases
    for case in cases:
        job = load_job(str(corpus / case["check"]))
        assert isinstance(job, EditJob)
        assert check(str(corpus / case["check"])).ok  # only a run finds them
        assert quiet(job).exit_code == case["exit_code"]
        assert recorded(job.output) == {"good": ("failed_to_edit", case["error"])}
        assert not (Path(job.output) / "images").exists()


@pytest.mark.ray
def test_ray_answers_the_whole_corpus_as_one_process_does(corpus: Path, painted: EditJob, tmp_path: Path) -> None:
    job = job_of(corpus, "rows", tmp_path, ray={"batch_size": 4, "actors": 2, "rows_per_block": 16})
    quiet(job, executor="ray")
    assert outcome(job.output) == outcome(painted.output)
    assert verify_output(job.output).digest == verify_output(painted.output).digest


def outcome(output: str) -> dict[str, tuple[str, str | None, str | None, str | None]]:
    rows = results.read(output).to_pylist()
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: (row["status"], row["error_type"], row["error_stage"], row["sha256"]) for row in rows}


# Pictures of every kind, but none so large that an example takes long.
SLOW = {"image-bomb-of-text.png", "image-long-strip", "mask-noisy"}


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mixture_in_any_order_and_any_blocks_gives_each_row_its_own_answer_once(
    corpus: Path, painted: EditJob, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("mixture")
    table = pq.read_table(corpus / "rows.parquet")
    places = [place for place, case in enumerate(table["case"].to_pylist()) if case not in SLOW]
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=10, unique=True))
    spread = {"batch_size": data.draw(st.integers(1, 5)), "rows_per_block": data.draw(st.integers(1, 6))}
    pq.write_table(table.take(chosen), corpus / "mixture.parquet")
    job = job_of(corpus, "mixture", folder, ray=spread)

    summary = quiet(job)

    alone = outcome(painted.output)
    assert outcome(job.output) == {key: alone[key] for key in table.take(chosen)["key"].to_pylist()}
    assert sum(summary.statuses.values()) == summary.answered_now == len(chosen)
    digest = verify_output(job.output).digest
    assert quiet(job).answered_now == 0
    assert verify_output(job.output).digest == digest
