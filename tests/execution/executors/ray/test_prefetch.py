"""Nodes fetch weights before a run starts: a slow fetch is not a stall, one without progress is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from retouch.errors import Interrupted
from retouch.execution.executors.ray import edit
from retouch.execution.plan import Plan, make_plan, open_run
from retouch.execution.tracing import RunObserver
from retouch.models.weights import fetch
from retouch.storage import downloads

from tests.helpers.answers import answered
from tests.helpers.datasets import painter_job, write_dataset
from tests.helpers.web_files import Web, serving

pytestmark = pytest.mark.ray

PHASES = 5


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server, and workers whose cache has nothing of it."""
    with serving({"/net.bin": bytes(downloads.PART * PHASES)}) as web:
        theirs = fetch.places(f"{web.url}/net.bin", None)  # the cluster's workers have no cache of the test's
        monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))
        yield web
        for place in theirs.values():
            shutil.rmtree(place.parent, ignore_errors=True)


def planned(tmp_path: Path, web: Web, limit: int) -> Plan:
    """A run whose plan has fetched its weights already, into our own cache."""
    editor = {"name": "tests.helpers.painters:Painter", "weights": f"{web.url}/net.bin"}
    ray = {"actors": 1, "batch_size": 4, "rows_per_block": 3, "stall_seconds": limit}
    plan = make_plan(painter_job(tmp_path, write_dataset(tmp_path, 3), editor=editor, ray=ray))
    open_run(plan)
    return plan


# Slow: a part every 12 seconds, 60 in all, where a worker of a busy machine takes 10 to begin.
@pytest.mark.parametrize(
    "slow",
    [
        False,
        pytest.param(True, marks=pytest.mark.long),
    ],
)
def test_a_slow_fetch_fails_no_run_and_is_in_its_telemetry(tmp_path: Path, cold: Web, slow: bool) -> None:
    plan = planned(tmp_path, cold, 40 if slow else 600)
    cold.seconds = 12 if slow else 0
    summed: dict[str, float] = {}
    list(edit.execute(plan, os.environ["RAY_ADDRESS"], RunObserver(totals=summed)))
    assert len(answered(plan.job.output)) == 3
    assert summed["fetched_bytes"] == downloads.PART * PHASES


def test_a_fetch_without_progress_stops_the_run_in_one_line(tmp_path: Path, cold: Web) -> None:
    plan = planned(tmp_path, cold, 4)
    cold.seconds = 60
    with pytest.raises(Interrupted, match=r"no weights arrived for 4 s \(ray.stall_seconds\)"):
        list(edit.execute(plan, os.environ["RAY_ADDRESS"]))
