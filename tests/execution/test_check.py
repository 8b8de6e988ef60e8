"""A check finds the failures of a run before it, writes nothing, and loads no network for a manifest alone."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from retouch import storage
from retouch.cli.app import main
from retouch.errors import ConfigError, OutputError, StopRun
from retouch.execution import check as check_module
from retouch.execution.check import CheckReport, check
from retouch.execution.edit import run
from retouch.jobs.config import EditJob
from retouch.manifests.samples import Failure
from retouch.outputs import results
from rich.console import Console

from manifests import bad_files
from tests.helpers.datasets import painter_job, png, write_dataset

pytestmark = pytest.mark.slow


def in_a_file(job: EditJob, folder: Path) -> str:
    (folder / "job.json").write_text(json.dumps(job.model_dump(mode="json")))
    return str(folder / "job.json")


def agreed(job: EditJob, folder: Path) -> dict[str, tuple[str, str]]:
    """Status and error of each row that fails, which is the same in check and run."""
    found = {key: (failure.status, failure.type) for key, failure in check(in_a_file(job, folder)).failed.items()}
    run(job, executor="local", console=Console(file=io.StringIO()))
    rows = results.read(job.output).to_pylist()
    assert found == {row["key"]: (row["status"], row["error_type"]) for row in rows if row["error_type"]}
    return found


def translating(folder: Path, manifest: Path, **editor: Any) -> EditJob:
    """A job of DiffusionCLIP that takes next to no time."""
    params = {"t_0": 101, "n_inv": 2, "n_gen": 2}
    plain = {"name": "diffusionclip", "weights": "embedded:shapes", "params": params}
    return painter_job(folder, manifest, metrics=[], editor={**plain, **editor}, max_failure_rate=1.0)


@pytest.mark.slow
def test_a_good_manifest_is_fine_and_imports_no_torch(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 3)
    found = check(str(manifest))
    assert (found.ok, found.exit_code, found.rows, found.read, found.hints) == (True, 0, 3, 3, {})
    assert found.text().splitlines() == [
        "3 rows read: 3 fine, 0 would fail",
        "hint: columns passed through to the results: label",
    ]
    code = f"import sys; from retouch.execution import check; check.check({str(manifest)!r})"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_text_counts_failures_by_class_with_first_keys_and_reasons() -> None:
    gone = {f"row-{i}": Failure("failed_to_load", "ObjectMissing", f"no object at {i}", "decode") for i in range(5)}
    other = {"k" * 99: Failure("failed_to_edit", "EditError", "too long", "edit")}
    found = CheckReport(10, 8, {**other, **gone}, {"animated": ("a", "b", "c", "d")}, ("column x",))
    assert found.exit_code == 1
    assert found.text().splitlines() == [
        "8 of 10 rows read: 2 fine, 6 would fail",
        "failed_to_load, ObjectMissing: 5",
        *(f"  'row-{i}': no object at {i}" for i in range(3)),
        "  and 2 more",
        "failed_to_edit, EditError: 1",
        f"  '{'k' * 60}...': too long",
        "hint: animated: 'a', 'b', 'c' and 1 more: the file contains several frames; only the first is used",
        "hint: column x",
    ]


def test_columns_that_are_probably_mistakes_get_a_hint(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 1, width=[3], examplar=["files/0.png"])
    assert check(str(manifest)).columns == (
        "columns passed through to the results: label, examplar",
        "column width is passed through as input_width, because the results have a column width",
        "column examplar is not a request column; did you mean exemplar?",
    )


def test_a_sample_is_the_same_rows_whatever_their_order(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 40)
    for file in (tmp_path / "files").glob("?*.png"):
        if file.stem != "mask":
            file.write_bytes(b"")
    found = check(str(manifest), sample=7)
    assert (found.rows, found.read, len(found.failed)) == (40, 7, 7)
    assert set(found.failed) != {f"row-{i:03d}" for i in range(7)}
    pq.write_table(pq.read_table(manifest).take(list(reversed(range(40)))), manifest)
    assert set(check(str(manifest), sample=7).failed) == set(found.failed)
    assert check(str(manifest), sample=99).read == 40


def test_checking_a_job_writes_nothing(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 4, {1: "raise"}))
    target = in_a_file(job, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert check(target).ok  # this prompt fails in the editor's pass, which a check does not run
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_that_have_a_result_are_checked_too(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 4))
    run(job, executor="local", console=Console(file=io.StringIO()))
    (tmp_path / "files" / "2.png").write_bytes(b"")
    assert set(check(in_a_file(job, tmp_path)).failed) == {"row-002"}


def test_an_output_of_another_job_is_refused_as_a_run_refuses_it(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 2)
    run(painter_job(tmp_path, manifest), executor="local", console=Console(file=io.StringIO()))
    with pytest.raises(OutputError, match="seed: 0 -> 5"):
        check(in_a_file(painter_job(tmp_path, manifest, seed=5), tmp_path))


def test_a_target_that_is_neither_manifest_nor_edit_job_is_refused_with_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not end in \.yaml, \.yml or \.json, so it is read as a manifest"):
        check(str(write_dataset(tmp_path, 1)), ["seed=3"])
    with pytest.raises(
        ConfigError, match="kind finetune cannot be checked; retouch check takes manifests and jobs of kind edit"
    ):
        check("jobs/finetune.yaml")


def test_overrides_of_a_job_are_applied(tmp_path: Path) -> None:
    target = in_a_file(painter_job(tmp_path, write_dataset(tmp_path, 1)), tmp_path)
    with pytest.raises(StopRun, match="no editor named 'blender'"):
        check(target, ["editor.name=blender"])
    assert check(target, ["mask.invert=true"]).hints == {"mask-inverted": ("row-000",)}


def test_an_image_that_its_format_cannot_hold_is_found(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 2)
    (tmp_path / "files" / "1.png").write_bytes(png(bad_files.picture(20_000, 1)))
    job = painter_job(tmp_path, manifest, image_format="webp-lossless", max_failure_rate=1.0)
    assert agreed(job, tmp_path) == {"row-001": ("failed_to_edit", "EditError")}


def test_rows_without_a_face_are_found(tmp_path: Path) -> None:
    face = [8.0, 6.0, 16.0, 6.0, 12.0, 9.0, 9.0, 12.0, 15.0, 12.0]
    manifest = write_dataset(tmp_path, 3, landmarks=[face, None, face[:4]])
    job = painter_job(tmp_path, manifest, fit="face", max_failure_rate=1.0)
    assert agreed(job, tmp_path) == {
        "row-001": ("failed_to_edit", "NoFace"),
        "row-002": ("failed_to_load", "LoadError"),
    }


def test_a_rows_network_that_is_missing_or_of_another_kind_is_found(tmp_path: Path) -> None:
    weights = str(Path("pipeline/retouch/models/embedded/shapes").absolute())
    checkpoints = ["blue", None, "/no/such.safetensors", "a\0b", "clip", f"{weights}/clip.safetensors"]
    job = translating(tmp_path, write_dataset(tmp_path, 6, checkpoint=checkpoints))
    failing = {f"row-{i:03d}": ("failed_to_edit", "WeightsError") for i in range(1, 6)}
    assert agreed(job, tmp_path) == failing


def test_a_file_that_never_arrives_keeps_no_other_row_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, never = storage.read_bytes, threading.Event()
    monkeypatch.setattr(storage, "read_bytes", lambda uri: read(uri) if "0.png" not in uri else (never.wait(), b"")[1])
    monkeypatch.setattr(check_module, "ALL_INPUTS", replace(check_module.ALL_INPUTS, seconds=0.3))
    found = check(str(write_dataset(tmp_path, 2)))
    never.set()
    assert {key: failure.type for key, failure in found.failed.items()} == {"row-000": "DeadlineExceeded"}


@pytest.mark.parametrize(("target", "code"), [("good", 0), ("bad", 1), ("none", 2)])
def test_the_exit_code_is_that_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str, code: int
) -> None:
    write_dataset(tmp_path, 2).rename(tmp_path / "good.parquet")
    table = pq.read_table(tmp_path / "good.parquet")
    pq.write_table(table.set_column(1, "image", [["files/0.png", "gone.png"]]), tmp_path / "bad.parquet")
    with pytest.raises(SystemExit) as ended:
        main(["check", str(tmp_path / f"{target}.parquet"), "--sample", "2"])
    printed = capsys.readouterr()
    assert ended.value.code == code
    assert printed.out.startswith(f"2 rows read: {2 - code} fine, {code} would fail\n" if code < 2 else "")
    assert printed.err.count("\n") == (code == 2)
