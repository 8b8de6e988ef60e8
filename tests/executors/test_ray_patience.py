"""Fetching weights on cold nodes is no standing still; a fetch from which nothing comes is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import downloads, results, weights_fetch
from pipeline.errors import Interrupted
from pipeline.executors import ray_data
from pipeline.plan import make_plan, open_run
from tests.datasets import painter_job, write_dataset
from tests.web_files import Web, serving

pytestmark = pytest.mark.ray


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A slow server, and workers whose cache has nothing of it."""
    with serving({"/net.bin": bytes(downloads.PART * 5)}) as web:
        theirs = weights_fetch.places(f"{web.url}/net.bin", None)  # the cluster's workers have no cache of the test's
        monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))
        yield web
        for place in theirs.values():
            shutil.rmtree(place.parent, ignore_errors=True)


@pytest.mark.parametrize(("limit", "hangs"), [(12, False), (4, True)])
def test_a_fetch_that_takes_longer_than_the_limit_fails_no_run_unless_nothing_comes(
    tmp_path: Path, cold: Web, limit: int, hangs: bool
) -> None:
    editor = {"name": "tests.painters:Painter", "weights": f"{cold.url}/net.bin"}
    ray = {"actors": 1, "batch_size": 4, "rows_per_block": 3, "stall_seconds": limit}
    # Quick, and in our own cache.
    plan = make_plan(painter_job(tmp_path, write_dataset(tmp_path, 3), editor=editor, ray=ray))
    open_run(plan)
    cold.seconds = 60 if hangs else 4  # for each of 5 parts, one after the other: 20 in all
    summed: dict[str, float] = {}
    if hangs:
        with pytest.raises(Interrupted, match=r"nothing moved for 4 s \(ray.stall_seconds\), and no weights came"):
            list(ray_data.execute(plan, os.environ["RAY_ADDRESS"], summed))
        return
    list(ray_data.execute(plan, os.environ["RAY_ADDRESS"], summed))
    assert len(results.answered(plan.job.output)) == 3
    assert summed["fetched_bytes"] == downloads.PART * 5
