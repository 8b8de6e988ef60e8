"""Fetching weights on cold nodes is no standing still; a fetch from which nothing comes is."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from retouch.errors import Interrupted
from retouch.execution.executors.ray import edit
from retouch.execution.executors.ray.metrics import reporting
from retouch.execution.executors.ray.stall_timeout import set_limit
from retouch.execution.plan import Plan, make_plan, open_run
from retouch.execution.traces import Listener
from retouch.models.weights import fetch
from retouch.storage import downloads

from tests.helpers.answers import answered
from tests.helpers.datasets import painter_job, write_dataset
from tests.helpers.web_files import Web, serving

pytestmark = pytest.mark.ray

PARTS = 5


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A server, and workers whose cache has nothing of it."""
    with serving({"/net.bin": bytes(downloads.PART * PARTS)}) as web:
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
        pytest.param(
            True, marks=pytest.mark.skipif("RETOUCH_LONG" not in os.environ, reason="takes a minute: RETOUCH_LONG=1")
        ),
    ],
)
def test_a_fetch_of_cold_workers_fails_no_run_and_is_in_its_figures(tmp_path: Path, cold: Web, slow: bool) -> None:
    plan = planned(tmp_path, cold, 40 if slow else 600)
    cold.seconds = 12 if slow else 0
    summed: dict[str, float] = {}
    list(edit.execute(plan, os.environ["RAY_ADDRESS"], Listener(figures=summed)))
    assert len(answered(plan.job.output)) == 3
    assert summed["fetched_bytes"] == downloads.PART * PARTS


def test_a_fetch_from_which_nothing_comes_stops_the_run_in_one_line(tmp_path: Path, cold: Web) -> None:
    plan = planned(tmp_path, cold, 4)
    cold.seconds = 60
    with pytest.raises(Interrupted, match=r"nothing moved for 4 s \(ray.stall_seconds\), and no weights came"):
        list(edit.execute(plan, os.environ["RAY_ADDRESS"]))


def test_bytes_that_come_set_rays_clock_back_and_the_same_bytes_do_so_once() -> None:
    import ray
    from ray.data._internal.execution.no_progress_guard import NoProgressGuard

    ray.init(address=os.environ["RAY_ADDRESS"], ignore_reinit_error=True, logging_level="ERROR", log_to_driver=False)
    context = SimpleNamespace()
    with reporting("job", None) as told:
        set_limit(context, 0.04, told)
        assert context.execution_no_progress_timeout_s == 0.04
        patience = context.custom_execution_callback_classes[0]()
        guard = NoProgressGuard({}, 0.04, clock=lambda: 0.0)
        executor = SimpleNamespace(_no_progress_guard=guard)

        def looks(count: int) -> None:
            """Steps of the loop until the board has answered so many times."""
            for _ in range(count):
                asked = patience.asked
                while patience.asked is asked or patience.asked is None:
                    patience.on_execution_step(executor)
                    time.sleep(0.01)

        looks(2)
        assert guard._last_progress_time == 0.0
        told.board.post.remote("worker", {"fetched_bytes": 5.0})
        looks(2)
        first = guard._last_progress_time
        assert first > 0.0
        looks(2)
        assert guard._last_progress_time == first
