"""A run's summary as a notebook shows it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from retouch.execution.edit import run
from retouch.execution.summary import Summary
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset
from tests.outputs.test_edited import Shown


def run_job(folder: Path, **changes: object) -> Summary:
    job = painter_job(folder, write_dataset(folder, 3, {1: "raise"}), max_failure_rate=1.0, **changes)
    return run(job, executor="local", console=Console(file=io.StringIO()))


def test_a_notebook_shows_rows_by_status_speed_and_where_the_gallery_is(tmp_path: Path) -> None:
    summary = run_job(tmp_path)
    shown = Shown(summary._repr_html_())
    assert "3 rows" in shown.text
    for text in ("success2", "failed_to_edit1", "rows/s", f"gallery{summary.report}"):
        assert text in shown.text
    assert "skipped" not in shown.text  # of no row


def test_an_address_is_text_to_a_notebook(tmp_path: Path) -> None:
    summary = replace(run_job(tmp_path), output="<img src=x onerror=alert(1)>")
    shown = Shown(summary._repr_html_())
    assert "img" not in shown.tags
    assert summary.output in shown.text
