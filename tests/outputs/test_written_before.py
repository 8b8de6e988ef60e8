"""An output of an older version (``written_by_344185d/README.md``) is resumed, verified, reported and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from retouch.cli.app import main
from retouch.outputs import results

OLD = Path(__file__).parent / "written_by_344185d" / "output"
SETTINGS = (  # the job as it was run then
    "candidates=2",
    "keep=2",
    "ray.batch_size=4",
    "editor.params.timesteps=5",
    "editor.params.skip_timesteps=1",
    "editor.params.aug_num=2",
)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a command prints; it has to succeed."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    printed = capsys.readouterr()
    assert not end.value.code, printed
    return printed.out + printed.err


@pytest.fixture
def output(tmp_path: Path) -> str:
    shutil.copytree(OLD, tmp_path / "old")
    return str(tmp_path / "old")


@pytest.mark.slow
def test_an_output_of_an_older_version_is_resumed_verified_reported_exported_and_repeated(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads(call(capsys, "status", output, "--json"))
    assert (before["rows"], before["answered"], before["spending"]["seconds"].keys()) == (4, 3, {"cpu"})
    old = results.read(output, ["key", "sha256", "fingerprint"])

    settings = [word for setting in (*SETTINGS, f"output={output}") for word in ("--set", setting)]
    call(capsys, "run", "jobs/quickstart.yaml", "--limit", "5", "--executor", "local", *settings)
    summary = json.loads(Path(output, "summary.json").read_text())
    assert (summary["statuses"]["success"], summary["answered_now"]) == (5, 2), "three rows of the old run are kept"
    new = results.read(output)
    assert new.select(old.column_names).slice(0, 3).equals(old)
    assert not list(Path(output).glob("in_flight/*")), "the killed run's marker is cleared"

    call(capsys, "verify", output)
    now = json.loads(call(capsys, "status", output, "--json"))
    assert (now["rows"], now["answered"], now["state"]) == (5, 5, "finished")
    assert now["spending"]["seconds"]["cpu"] > before["spending"]["seconds"]["cpu"]
    call(capsys, "report", output)
    page = Path(output, "report.html").read_text()
    assert all(key in page for key in new["key"].to_pylist())
    call(capsys, "export", output, str(tmp_path / "set"), "--format", "parquet", "--layout", "pairs")
    assert pq.read_table(tmp_path / "set" / "data").num_rows == 5
    call(capsys, "row", output, "shapes-001")
