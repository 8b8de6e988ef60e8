"""What a job that makes weights may say."""

from __future__ import annotations

from typing import Any

import pytest
from retouch.errors import ConfigError
from retouch.jobs.config import FinetuneJob, TrainJob, parse_job

TRAIN = {"kind": "train", "name": "t", "manifest": "boxes.parquet", "output": "out/", "weights": "embedded:shapes"}
TUNE = {"kind": "finetune", "name": "t", "output": "out", "weights": "embedded:shapes"}


def test_a_training_needs_no_more_than_rows_weights_and_an_output() -> None:
    job = parse_job(TRAIN, "test")
    assert isinstance(job, TrainJob)
    assert (job.manifests, job.output, job.ray.workers) == (("boxes.parquet",), "out", "auto")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"editor": {}}, "editor: unknown key"),
        ({"ray": {"workers": 0}}, "workers: got 0; allowed: a whole number from 1, or auto"),
        ({"ray": {"max_failures": -1}}, "ray.max_failures"),
        ({"max_failure_rate": 2}, "max_failure_rate"),
        ({"weights": None}, "weights"),
    ],
)
def test_a_training_that_can_mean_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_job({**TRAIN, **changes}, "test")


def test_fine_tuning_needs_distinct_targets_that_have_rows() -> None:
    target = {"name": "a", "domain": "x", "manifest": "m.parquet"}
    assert isinstance(parse_job({**TUNE, "targets": [target]}, "test"), FinetuneJob)
    with pytest.raises(ConfigError, match="targets named twice: a"):
        parse_job({**TUNE, "targets": [target, target]}, "test")
    with pytest.raises(ConfigError, match="no manifest for a"):
        parse_job({**TUNE, "targets": [{"name": "a", "domain": "x"}]}, "test")
    with pytest.raises(ConfigError, match="has one text of two"):
        parse_job({**TUNE, "targets": [{"name": "a", "prompt": "x", "manifest": "m"}]}, "test")
    with pytest.raises(ConfigError, match="has a domain and texts"):
        parse_job({**TUNE, "targets": [{**target, "prompt": "x", "source_prompt": "y"}]}, "test")
