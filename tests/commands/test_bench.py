"""``retouch bench``: each timing is a command that prints JSON."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from pipeline.cli import app


def test_scale_prints_a_line_of_json_a_size(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["bench", "scale", "--rows", "120", "--executor", "local", "--folder", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    (line,) = done.output.splitlines()
    assert json.loads(line)["rows"] == 120
