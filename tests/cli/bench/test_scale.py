"""Large manifests, here small: every command comes to its end and every row is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from retouch.cli.app import app
from retouch.cli.bench import scale
from retouch.errors import RetouchError
from retouch.outputs import results
from typer.testing import CliRunner


def test_each_size_is_run_run_again_and_verified_and_told_in_a_line_of_json(tmp_path: Path) -> None:
    command = ["bench", "scale", "--rows", "300", "--executor", "local", "--folder", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    record = json.loads(done.output)
    assert (record["rows"], record["executor"], record["sink"]) == (300, "local", "tar")
    for command in ("plan", "run", "again", "verify"):
        assert record[command]["seconds"] > 0
        assert record[command]["peak_mib"] > 10
    proof = results.verify(str(tmp_path / "out-300"))
    assert proof.ok
    assert proof.statuses == {"success": 300}


def test_a_command_that_fails_ends_the_measurement_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(RetouchError, match=r"(?s)ended with 1: .*no sink named 'nowhere'"):
        list(scale.measure([100], executor="local", sink="nowhere", folder=str(tmp_path)))
