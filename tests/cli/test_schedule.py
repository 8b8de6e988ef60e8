"""`retouch schedule` and `retouch night` as they are called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from retouch.cli.app import app, main
from typer.testing import CliRunner

from tests.helpers.jobs_on_s3 import EDIT


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(EDIT)
    return str(path)


def failed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_standard_output_is_yaml_that_names_the_command_it_comes_from(job: str) -> None:
    arguments = ["schedule", job, "--cron", "0 2 * * *", "--secret", "s3", "--secret", "hub", "--no-spot"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert [one["kind"] for one in yaml.safe_load_all(done.stdout)] == ["ConfigMap", "CronJob"]
    first = done.stdout.splitlines()[0]
    command = f"retouch schedule {job} --cron '0 2 * * *' --kind cronjob --secret s3 --secret hub --no-spot"
    assert first == f"# Made by: {command}"


def test_a_file_holds_what_standard_output_would(job: str, tmp_path: Path) -> None:
    arguments = ["schedule", job, "--kind", "rayjob", "--workers", "0:2"]
    printed = CliRunner().invoke(app, arguments).stdout
    done = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "night.yaml")])
    assert done.stdout == ""
    assert (tmp_path / "night.yaml").read_text() == printed


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--cron", "0 2 * *"], "4 fields instead of 5"),
        (["--kind", "deployment"], "cronjob, rayjob, raycluster"),
        (["--kind", "rayjob", "--workers", "4"], "0:4 for up to four pods"),
    ],
)
def test_a_wrong_option_is_one_line(
    job: str, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reason in failed(["schedule", job, *options], capsys)


def test_a_night_outside_of_a_cronjobs_pod_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JOB_NAME", "JOB_UID", "NAMESPACE", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    template = tmp_path / "rayjob.yaml"
    template.write_text("{metadata: {name: nightly}, spec: {entrypoint: x}}")
    assert "JOB_NAME, JOB_UID and NAMESPACE are not set" in failed(["night", str(template)], capsys)
    whose = ["--job-name", "nightly-29000000", "--job-uid", "u", "--namespace", "n"]
    assert "not in a pod" in failed(["night", str(template), *whose], capsys)


def test_importing_the_command_leaves_kubernetes_and_cron_libraries_out() -> None:
    code = (
        "import sys, retouch.cli.app; sys.exit(bool({'kubernetes', 'croniter', 'yaml', 'fsspec'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
