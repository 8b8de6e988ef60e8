"""``retouch plugins`` as a person and as a program meet it."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_plan import said


def test_all_that_is_installed_is_listed_with_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "plugins")
    assert code == 0
    for text in ("editors:", "metrics:", "set metrics:", "sinks:", "background_lpips", "retouch.outputs.sinks:TarSink"):
        assert text in out
    assert "reads image, exemplar, mask, prompt" in out
    assert "columns: clip_score (float64)" in out
    code, out, _ = said(capsys, "plugins", "--json")
    records = {(record["kind"], record["name"]): record for record in json.loads(out)}
    assert records["editors", "blended_diffusion"]["package"].startswith("retouch ")
    assert all(record["error"] is None for record in records.values())


def test_one_plug_in_shows_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "plugins", "paint_by_example")
    assert code == 0
    assert "  steps: integer [50]; plms and ddim: the published grid" in out
    code, _, err = said(capsys, "plugins", "paint_by_exampel")
    assert code == 2
    assert "did you mean paint_by_example?" in err
