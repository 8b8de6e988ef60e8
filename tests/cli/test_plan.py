"""``retouch plan`` as a person meets it: what it says, what it leaves alone, how it refuses."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch.cli.app import main
from retouch.execution.edit import run
from retouch.jobs.config import EditJob
from rich.console import Console

from tests import ROOT
from tests.helpers.datasets import painter_job, write_dataset

PRICES = "{currency: EUR, devices: [{names: [cpu], per_hour: 36, when: today, source: a bill}]}"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def written(job: EditJob, folder: Path) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return str(path)


def test_the_quickstart_is_planned_on_its_real_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--set", "editor.params.timesteps=4", "--set", f"output={tmp_path}/out", "--limit", "4"]
    job = [str(ROOT / "jobs/quickstart.yaml"), "--set", f"manifest={ROOT}/manifests/shapes.parquet"]
    code, out, err = said(capsys, "plan", *job, *short, "--executor", "local", "--gpus", "1,2", "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    assert (found["rows"], found["answered"], found["left"], found["would_fail"]) == (4, 0, 4, {})
    assert [one["actors"] for one in found["predictions"]] == [1, 2]
    for one in found["predictions"]:
        assert 0 < one["wall"]["low"] <= one["wall"]["value"] <= one["wall"]["high"]
        assert one["money"] is None, "nobody knows what this core costs"
    (passes,) = found["probe"]["passes"]
    assert passes["rows"][0] == "all alike"
    assert found["image_bytes"] > 1000
    assert not (tmp_path / "out").exists()


def test_it_says_in_lines_what_is_left_what_would_fail_what_it_takes_and_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_dataset(tmp_path, 12)
    (tmp_path / "files" / "7.png").write_bytes(b"damaged")
    job = painter_job(tmp_path, manifest, max_failure_rate=1.0)
    run(job, executor="local", limit=3, console=Console(file=io.StringIO()))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    (tmp_path / "prices.yaml").write_text(PRICES)
    code, out, err = said(
        capsys, "plan", written(job, tmp_path), "--executor", "local", "--prices", str(tmp_path / "prices.yaml")
    )
    assert code == 0, err
    assert "painted: 12 rows, 3 done, 9 left" in out
    assert "check: 9 rows read: 8 fine, 1 would fail" in out
    assert "row-007" in out
    assert "s per pass" in out
    assert "EUR" in out
    assert "price: 36 EUR per hour of cpu (a bill, today)" in out
    assert " images, " in out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_of_a_finished_job_nothing_is_left_and_nothing_is_probed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 3))
    run(job, executor="local", console=Console(file=io.StringIO()))
    code, out, _ = said(capsys, "plan", written(job, tmp_path))
    assert code == 0
    assert out.splitlines() == [
        "painted: 3 rows, 3 done, 0 left",
        "nothing left to do",
    ]
    code, out, _ = said(capsys, "plan", written(job, tmp_path), "--json", "--gpus", "8")
    found = json.loads(out)
    assert (found["left"], found["probe"]) == (0, None)
    assert found["predictions"][0]["wall"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_device_without_a_price_is_said_and_no_money_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 4))
    code, out, _ = said(capsys, "plan", written(job, tmp_path), "--executor", "local", "--sample", "2")
    assert code == 0
    assert "check: 2 of 4 rows read" in out
    assert "no price is known for 'cpu'" in out
    assert "USD" not in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none.yaml"], "no job file"),
        (["{job}", "--gpus", "two"], "--gpus 'two' is not a list of numbers"),
        (["{job}", "--gpus", "0"], "--gpus '0' is not a list of numbers"),
        (["{job}", "--executor", "slurm"], "no executor named 'slurm'"),
        (["{job}", "--prices", "none.yaml"], "price table cannot be read"),
        ([str(ROOT / "jobs/finetune.yaml")], "retouch plan takes jobs of kind edit"),
    ],
)
def test_a_wrong_command_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    job = written(painter_job(tmp_path, write_dataset(tmp_path, 2)), tmp_path)
    code, _, err = said(capsys, "plan", *(argument.replace("{job}", job) for argument in arguments))
    assert code == 2
    assert reason in err
    assert err.count("\n") == 1


def test_another_jobs_output_is_refused_before_anything_is_probed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 2))
    run(job, executor="local", console=Console(file=io.StringIO()))
    code, _, err = said(capsys, "plan", written(job, tmp_path), "--set", "seed=4")
    assert code == 2
    assert "seed: 0 -> 4" in err
