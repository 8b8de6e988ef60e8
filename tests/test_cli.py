"""The command as a person meets it: help, exit codes, one line an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.datasets import painter_job, write_dataset


def retouch(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(Path.cwd())!r}); from pipeline.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def local_run(tmp_path: Path, rows: int = 4, prompts: dict[int, str] | None = None) -> str:
    job = painter_job(tmp_path, write_dataset(tmp_path, rows, prompts))
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    return str(path)


def test_help_names_the_commands_and_importing_the_command_leaves_torch_and_ray_out() -> None:
    found = retouch("--help")
    assert found.returncode == 0
    for command in ("run", "status", "verify", "report", "plugins"):
        assert command in found.stdout
    code = "import sys, pipeline.cli; sys.exit(bool({'torch', 'ray', 'pyarrow', 'pydantic'} & set(sys.modules)))"
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
    assert "4/4 rows answered" in state.stdout


def test_verify_ends_with_a_code_and_the_key_of_what_is_missing(tmp_path: Path) -> None:
    retouch("run", local_run(tmp_path), "--executor", "local")
    image = next((tmp_path / "out" / "images").rglob("row-002-*.png"))
    image.unlink()
    proof = retouch("verify", str(tmp_path / "out"))
    assert proof.returncode == 1
    assert "row-002" in proof.stdout


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
        (["run", "{job}", "--set", "editor.params={steps: 3}"], "no parameter named steps"),
        (["run", "{job}", "--set", "manifest=none.parquet"], "none.parquet"),
        (["run", "{job}", "--executor", "slurm"], "no executor named 'slurm'"),
        (["run", "{job}", "--set", "quality.thresholds={blueness: 1}"], "blueness, which nothing measures"),
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


def test_plugins_lists_what_is_installed() -> None:
    found = retouch("plugins").stdout
    for name in ("blended_diffusion", "clip_score", "background_lpips", "files", "tar"):
        assert name in found
