"""A fine-tuning job: what stands in its output, what is refused, and what an end on the way leaves."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch.errors import Interrupted, OutputError, StopRun
from retouch.execution import finetune as training
from retouch.execution.finetune import Tuned, finetune, tasks_of
from retouch.jobs.config import FinetuneJob, parse_job
from retouch.outputs.status import read_status
from retouch.training.finetune.texts import Texts
from rich.console import Console

from tests.helpers.datasets import painter_job
from tests.training.finetune.tiny import PARAMS, job, write_networks, write_rows


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_networks(tmp_path_factory.mktemp("networks"))


def asked(data: dict[str, Any]) -> FinetuneJob:
    found = parse_job(data, "test")
    assert isinstance(found, FinetuneJob)
    return found


def tuned(data: dict[str, Any]) -> Tuned:
    return finetune(asked(data), executor="local", console=Console(file=io.StringIO()))


def hashes(folder: Path) -> dict[str, str]:
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


def event_log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def test_every_target_gets_its_own_file_and_a_second_call_leaves_them(files: dict[str, str], tmp_path: Path) -> None:
    data = job(tmp_path, files, write_rows(tmp_path))
    found = tuned(data)
    networks = tmp_path / "out" / "networks"
    assert found.targets == {name: str(networks / f"{name}.safetensors") for name in ("cat", "own")}
    assert len(set(hashes(networks).values())) == 2
    assert json.loads((tmp_path / "out" / "run.json").read_text())["kind"] == "finetune"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["targets"] == found.targets
    before = {path: path.stat().st_mtime_ns for path in networks.iterdir()}
    assert tuned(data).targets == found.targets
    assert {path: path.stat().st_mtime_ns for path in networks.iterdir()} == before
    names = [event["event"] for event in event_log(tmp_path / "out")]
    assert names == ["started", "finished target", "finished target", "finished"] * 2
    with pytest.raises(OutputError, match="holds a job of kind finetune, which has no rows"):
        read_status(str(tmp_path / "out"))
    more = {**data, "targets": [*data["targets"], {"name": "third", "source_prompt": "red", "prompt": "at"}]}
    kept = hashes(networks)
    assert tuned(more).targets.keys() == {"cat", "own", "third"}
    assert kept.items() < hashes(networks).items()


def test_a_target_is_the_job_with_its_own_params_manifest_and_texts(files: dict[str, str], tmp_path: Path) -> None:
    other = write_rows(tmp_path / "other")
    data = job(tmp_path, files, write_rows(tmp_path))
    data["targets"] += [
        {"name": "drawn", "domain": "sketch"},
        {"name": "there", "manifest": str(other), "params": {"t_0": 500}},
    ]
    cat, own, drawn, there = tasks_of(asked(data))
    assert cat.texts == Texts("red", "cat")
    assert (own.texts, own.params) == (None, {**PARAMS, "iterations": 2})
    assert drawn.texts is not None
    assert (drawn.texts.source, drawn.manifests) == ("photo", (str(tmp_path / "manifest.parquet"),))
    assert (there.manifests, there.params["t_0"], there.params["n_inv"]) == ((str(other),), 500, PARAMS["n_inv"])
    assert {task.seed for task in (cat, own, drawn, there)} == {3}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("params={steps: 3}", "target cat: params.steps: unknown key"),
        ("targets.1.params={t_0: 1000}", "t_0 is 1000"),
        ("targets.1.domain=zombi", "no domain named 'zombi'; near it: zombie"),
        ("targets=[]", "targets"),
        ("targets.1.name=cat", "targets named twice: cat"),
        ("weights.unet=none.pt", "no weights at none.pt"),
        ("manifest=none.parquet", "none.parquet"),
        ("targets.0.prompt=red", "both texts are the same to CLIP"),
    ],
)
def test_a_wrong_job_is_one_line_and_code_2(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    from retouch.cli.app import main

    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job(tmp_path, files, write_rows(tmp_path))))
    with pytest.raises(SystemExit) as ended:
        main(["run", str(path), "--executor", "local", "--set", override])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("retouch: ")
    assert message in line
    assert not (tmp_path / "out" / "networks").exists()


@pytest.mark.parametrize("option", [["--limit", "3"], ["--retry-failed"]])
def test_options_of_rows_are_refused(files: dict[str, str], tmp_path: Path, option: list[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job(tmp_path, files, "none.parquet")))
    code = f"import sys; sys.path.insert(0, {str(Path.cwd())!r}); from retouch.cli.app import main; main()"
    command = [sys.executable, "-c", code, "run", str(path), *option]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is of kind finetune, which has no rows" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_output_with_the_answers_of_an_edit_job_is_left_as_it_is(files: dict[str, str], tmp_path: Path) -> None:
    from retouch.execution.edit import run

    rows = write_rows(tmp_path)
    run(painter_job(tmp_path, rows), executor="local", console=Console(file=io.StringIO()))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")}
    with pytest.raises(OutputError, match="holds the results of an edit job; use another output"):
        tuned(job(tmp_path, files, rows))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.json*")} == before


def test_an_interruption_reports_the_finished_targets_and_the_same_call_resumes(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = job(tmp_path, files, write_rows(tmp_path))
    real = training.tune

    def stopping(task: Any, *rest: Any) -> Any:
        if task.name == "own":
            raise KeyboardInterrupt
        return real(task, *rest)

    monkeypatch.setattr(training, "tune", stopping)
    with pytest.raises(
        Interrupted, match="stopped with 1 of 2 targets done; run the same command again to resume"
    ) as error:
        tuned(data)
    assert error.value.exit_code == 3
    assert event_log(tmp_path / "out")[-1]["targets"] == ["cat"]
    monkeypatch.undo()
    assert tuned(data).targets.keys() == {"cat", "own"}


def test_a_target_that_fails_is_in_the_event_log_and_those_before_it_stay(
    files: dict[str, str], tmp_path: Path
) -> None:
    data = job(tmp_path, files, write_rows(tmp_path))
    data["targets"][1] = {"name": "own", "source_prompt": "red", "prompt": "red"}
    with pytest.raises(StopRun, match="target own"):
        tuned(data)
    last = event_log(tmp_path / "out")[-1]
    assert (last["event"], last["targets"]) == ("stopped", ["cat"])
    assert "target own" in last["reason"]
    assert hashes(tmp_path / "out" / "networks").keys() == {"cat"}
