"""A cluster that is started here before it is wanted is the one that is used, and is stopped in any case."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.errors import ManifestError
from pipeline.executors.ray_cluster import beside, cluster
from pipeline.run import run
from tests.datasets import painter_job, write_dataset


@pytest.mark.ray(own=True)
def test_a_run_whose_plan_is_made_beside_rays_start_answers_every_row(tmp_path: Path) -> None:
    import ray

    job = painter_job(tmp_path, write_dataset(tmp_path, 4))
    summary = run(job, ahead=True, console=Console(file=io.StringIO()))
    assert (summary.rows, summary.statuses["success"]) == (4, 4)
    assert not ray.is_initialized()


@pytest.mark.ray(own=True)
def test_what_goes_wrong_beside_it_is_raised_and_the_cluster_stopped() -> None:
    import ray

    where = []

    def work() -> None:
        where.append(threading.current_thread())
        raise ManifestError("no rows")

    with pytest.raises(ManifestError, match="no rows"), beside(work, 1):
        pytest.fail("there is no result to go on with")
    assert where != [threading.main_thread()]
    assert not ray.is_initialized()
    with beside(lambda: "done", 1) as result, cluster(None, 1) as may_grow:
        assert (result, may_grow, ray.is_initialized()) == ("done", False, True)
    assert not ray.is_initialized()
