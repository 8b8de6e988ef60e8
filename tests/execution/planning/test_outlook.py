"""The report of what a job will take: what is checked and predicted, and its text."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from retouch.execution.edit import run
from retouch.execution.plan import make_plan
from retouch.execution.planning.outlook import _bytes, _clock, cost_report
from retouch.jobs.prices import load
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset


def test_with_no_rows_left_nothing_is_probed_and_the_forecast_is_zero(tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 2))
    run(job, executor="local", console=Console(file=io.StringIO()))
    report = cost_report(make_plan(job), load(None), counts=(1, 4), sample=None, executor="local", address=None)
    assert (report.strata, report.measured, report.checkup) == (None, None, None)
    assert [(one.actors, one.wall.value) for one in report.forecast.predictions] == [(1, 0.0), (4, 0.0)]
    assert list(report.lines()) == ["painted: 2 rows, 2 done, 0 left", "nothing left to do"]


@pytest.mark.parametrize(("seconds", "text"), [(48.2, "48 s"), (750, "12.5 min"), (12_240, "3.4 h")])
def test_durations_have_a_unit_that_fits(seconds: float, text: str) -> None:
    assert _clock(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 B"), (1_500, "1.5 kB"), (2.5e9, "2.5 GB"), (4e15, "4e+03 TB")])
def test_sizes_have_a_unit_that_fits(count: float, text: str) -> None:
    assert _bytes(count) == text
