from __future__ import annotations

import io
from pathlib import Path

import pytest
from retouch.errors import StopRun
from retouch.execution.evaluate import evaluate
from retouch.jobs.config import EvaluateJob, parse_job
from rich.console import Console

from tests.helpers.datasets import picture, png


def images(folder: Path, first: int, count: int) -> str:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(picture(first + number)))
    return str(folder)


@pytest.mark.ray
def test_shards_on_ray_give_the_numbers_of_this_process_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    made, real = images(tmp_path / "made", 0, 7), images(tmp_path / "real", 50, 8)
    data = {"kind": "evaluate", "name": "b", "results": made, "reference": real, "shards": 3}
    jobs = []
    for where in ("here", "ray"):
        job = parse_job(
            {**data, "output": str(tmp_path / where), "metrics": ["tests.helpers.set_metrics:Colour"]}, "test"
        )
        assert isinstance(job, EvaluateJob)
        jobs.append(job)
    quiet = Console(file=io.StringIO())
    here = evaluate(jobs[0], executor="local", console=quiet).record
    there = evaluate(jobs[1], executor="ray", console=quiet).record
    assert there["metrics"] == here["metrics"]
    wrong = jobs[0].ray.model_copy(update={"resources": {"nothing_has_this": 1.0}})
    (Path(made) / "0.png").write_bytes(png(picture(9)))
    with pytest.raises(StopRun, match="needs 1 nothing_has_this"):
        evaluate(jobs[1].model_copy(update={"ray": wrong}), executor="ray", console=quiet)
