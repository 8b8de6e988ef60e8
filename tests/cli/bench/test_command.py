"""``retouch bench`` by itself: engine and pipeline in short. The other tests of this folder are of its commands."""

from __future__ import annotations

import json

import pytest
from retouch.cli.app import app
from typer.testing import CliRunner


@pytest.mark.ray(own=True)
@pytest.mark.slow
@pytest.mark.long
def test_without_a_command_it_prints_figures_of_engine_and_pipeline_as_json() -> None:
    done = CliRunner().invoke(app, ["bench", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert {"blended_diffusion", "paint_by_example", "diffusionclip"} <= {record.get("editor") for record in records}
    assert {"engine", "ray", "plain script"} <= {record.get("what") for record in records}
