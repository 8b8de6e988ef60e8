"""The command as a person meets it: help, exit codes, one line an error."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from retouch.cli.app import main
from retouch.execution.edit import run
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset

pytestmark = pytest.mark.slow


def retouch(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(Path.cwd())!r}); from retouch.cli.app import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def local_run(tmp_path: Path, rows: int = 4, prompts: dict[int, str] | None = None) -> str:
    job = painter_job(tmp_path, write_dataset(tmp_path, rows, prompts))
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return str(path)


PANELS = {
    "Run": ["check", "plan", "run", "evaluate"],
    "Inspect": ["status", "verify", "report", "row"],
    "Data": ["export", "manifest", "import", "weights"],
    "Cluster": ["submit", "schedule", "jobs"],
    "Develop": ["plugins", "schema", "bench"],
}


def test_help_groups_all_commands_in_panels(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert not ended.value.code
    panels = re.findall(r"╭─ (\w+) ─+╮\n(.*?)\n╰", capsys.readouterr().out, re.DOTALL)
    assert {title: re.findall(r"^│ (\w+)", text, re.MULTILINE) for title, text in panels[1:]} == PANELS
    assert [title for title, _ in panels] == ["Options", *PANELS]


def test_the_version_is_printed_before_anything_else_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version", "no-such-command"])
    assert not ended.value.code
    assert capsys.readouterr().out == f"retouch {version('retouch')}\n"


def test_a_shell_completes_commands_and_gets_a_script_for_it() -> None:
    command = [str(Path(sys.executable).with_name("retouch"))]
    typed = {"_RETOUCH_COMPLETE": "complete_bash", "COMP_WORDS": "retouch st", "COMP_CWORD": "1"}
    completed = subprocess.run(command, env={**os.environ, **typed}, capture_output=True, text=True, check=True)
    assert completed.stdout.split() == ["status"]
    asked = {"_RETOUCH_COMPLETE": "source_bash"}
    script = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert "complete -o default -F _retouch_completion retouch" in script.stdout


def test_importing_the_command_imports_none_of_the_libraries_that_take_long() -> None:
    code = (
        "import sys, retouch.cli.app; "
        "sys.exit(bool({'torch', 'ray', 'pyarrow', 'pydantic', 'fsspec', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_prints_what_adds_up_the_rate_and_where_the_gallery_is(tmp_path: Path) -> None:
    done = retouch("run", local_run(tmp_path), "--executor", "local")
    assert done.returncode == 0, done.stderr
    assert "rows: 4 = 4 success" in done.stdout
    assert "images/s" in done.stdout
    assert f"gallery: {tmp_path}/out/report.html" in done.stdout
    proof = retouch("verify", str(tmp_path / "out"))
    assert proof.returncode == 0
    assert "digest" in proof.stdout
    state = retouch("status", str(tmp_path / "out"))
    assert "4/4 rows done" in state.stdout


def test_programs_read_objects_alone_from_stdout_and_the_quiet_way_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = local_run(tmp_path)
    for mode in ("json", "quiet", "fancy"):
        with pytest.raises(SystemExit) as ended:
            main(["run", job, "--executor", "local", "--set", f"output={tmp_path}/{mode}", "--progress", mode])
        out, err = capsys.readouterr()
        if mode == "json":
            *_, last = [json.loads(line) for line in out.splitlines()]
            assert (last["event"], last["rows"], last["exit_code"]) == ("finished", 4, 0)
        else:
            assert out == ""
        assert ended.value.code == (2 if mode == "fancy" else 0)
        assert ("mode 'fancy'" in err) == (mode == "fancy")
        assert err.count("\n") == (mode == "fancy")


def test_verify_ends_with_a_code_and_the_key_of_what_is_missing(tmp_path: Path) -> None:
    retouch("run", local_run(tmp_path), "--executor", "local")
    image = next((tmp_path / "out" / "images").rglob("row-002-*.png"))
    image.unlink()
    proof = retouch("verify", str(tmp_path / "out"))
    assert proof.returncode == 1
    assert "row-002" in proof.stdout


@pytest.fixture
def finished() -> Iterator[Path]:
    """A finished run's output, in a folder that any user may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        job = painter_job(Path(folder), write_dataset(Path(folder), 3))
        run(job, executor="local", console=Console(file=io.StringIO()))
        yield Path(job.output)


def verified(output: Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(output)])
    return int(ended.value.code or 0)


def test_verify_leaves_its_proof_in_the_output_and_names_the_file(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verified(finished) == 0
    said = capsys.readouterr().out.splitlines()
    proof = json.loads((finished / "proof.json").read_text())
    assert said[-3:] == [
        f"sha256 of the sorted (key, sha256): {proof['images_digest']}",
        f"ok, digest {proof['digest']}",
        f"proof: {finished}/proof.json",
    ]
    next((finished / "images").rglob("*.png")).unlink()
    assert verified(finished) == 1
    again = json.loads((finished / "proof.json").read_text())
    assert (again["ok"], again["findings"]["images missing"], again["digest"]) == (False, 1, proof["digest"])


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """As a user who may read the folder and not write to it."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.mark.parametrize(("broken", "code"), [(False, 0), (True, 1)])
def test_an_output_that_cannot_be_written_to_is_verified_all_the_same(
    finished: Path, capsys: pytest.CaptureFixture[str], broken: bool, code: int
) -> None:
    if broken:
        next((finished / "images").rglob("*.png")).write_bytes(b"other")
    verified(finished)  # imports what a user without rights could not
    (finished / "proof.json").unlink()
    before = sorted(finished.iterdir())
    capsys.readouterr()
    with without_rights(finished):
        assert verified(finished) == code
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("not ok" if broken else "ok, digest ")
    assert err.startswith("proof not written: ")
    assert err.count("\n") == 1
    assert sorted(finished.iterdir()) == before


def test_too_many_failures_end_with_1_and_say_what_to_do(tmp_path: Path) -> None:
    done = retouch("run", local_run(tmp_path, prompts={1: "raise"}), "--executor", "local")
    assert done.returncode == 1
    assert "1 failed_to_edit" in done.stdout
    assert "--retry-failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "none.yaml"], "no job file at none.yaml"),
        (["run", "{job}", "--set", "colour=red"], "colour: unknown key"),
        (["run", "{job}", "--set", "editor.name=blender"], "no editor named 'blender'"),
        (["run", "{job}", "--set", "editor.params={steps: 3}"], "editor.params.steps: unknown key"),
        (["run", "{job}", "--set", "manifest=none.parquet"], "none.parquet"),
        (["run", "{job}", "--executor", "slurm"], "no executor named 'slurm'"),
        (
            ["run", "{job}", "--set", "quality.thresholds={blueness: 1}"],
            "blueness, which no metric of the job measures",
        ),
        (["status", "nowhere"], "nowhere holds no run"),
        (["verify", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_command_is_one_line_and_code_2_and_starts_nothing(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    job = local_run(tmp_path)
    failed = retouch(*(argument.replace("{job}", job) for argument in arguments), cwd=tmp_path)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert said in failed.stderr
    assert failed.stderr.startswith("retouch: ")
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
