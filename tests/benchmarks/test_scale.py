"""Large manifests, here small: every command comes to its end and every row is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from retouch.errors import RetouchError
from retouch.outputs.verify import verify_output

from tests.benchmarks import scale

pytestmark = pytest.mark.slow


def test_each_size_is_run_run_again_and_verified_and_printed_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scale.main([300], executor="local", sink="tar", folder=str(tmp_path))
    record = json.loads(capsys.readouterr().out)
    assert (record["rows"], record["executor"], record["sink"]) == (300, "local", "tar")
    for command in ("plan", "run", "again", "verify"):
        assert record[command]["seconds"] > 0
        assert record[command]["peak_mib"] > 10
    proof = verify_output(str(tmp_path / "out-300"))
    assert proof.ok
    assert proof.statuses == {"success": 300}


def test_a_command_that_fails_ends_the_measurement_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(RetouchError, match=r"(?s)ended with exit code 1: .*no sink named 'nowhere'"):
        list(scale.measure([100], executor="local", sink="nowhere", folder=str(tmp_path)))
