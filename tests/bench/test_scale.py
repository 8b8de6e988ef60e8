"""Large manifests, here small: every command comes to its end and every row is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import results
from pipeline.bench import scale
from pipeline.errors import RetouchError


@pytest.mark.parametrize("sink", ["tar"])
def test_each_size_is_run_run_again_and_verified(tmp_path: Path, sink: str) -> None:
    (record,) = scale.measure([300], executor="local", sink=sink, folder=str(tmp_path))
    assert json.loads(json.dumps(record)) == record
    assert {name: record[name] for name in ("rows", "executor", "sink")} == {
        "rows": 300,
        "executor": "local",
        "sink": sink,
    }
    for command in ("plan", "run", "again", "verify"):
        assert record[command]["seconds"] > 0
        assert record[command]["peak_mib"] > 10
    proof = results.verify(str(tmp_path / "out-300"))
    assert proof.ok
    assert proof.statuses == {"success": 300}


def test_a_command_that_fails_ends_the_measurement_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(RetouchError, match=r"(?s)ended with 1: .*no sink named 'nowhere'"):
        list(scale.measure([100], executor="local", sink="nowhere", folder=str(tmp_path)))
