"""The manifest that the shipped training reads."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from retouch.imaging import codec
from retouch.jobs.config import TrainJob, load_job
from retouch.jobs.train_params import TrainParams
from retouch.models.embedded.scenes import TUNING
from retouch.plugins import check_params
from retouch.training.exemplar.boxes import usable
from retouch.training.exemplar.data import read_rows

from manifests import make_boxes
from tests import ROOT


def test_the_committed_boxes_are_what_the_maker_makes() -> None:
    stored, made = pq.read_table(ROOT / "manifests" / "boxes.parquet"), make_boxes.make()
    assert stored.drop_columns(["image"]) == made.drop_columns(["image"]), "run python manifests/make_boxes.py again"
    for old, new in zip(stored["image"].to_pylist(), made["image"].to_pylist(), strict=True):
        assert old["path"] == new["path"]
        seen = (codec.decode_image(file["bytes"]).pixels for file in (old, new))
        np.testing.assert_array_equal(*seen)
    assert make_boxes.FIRST + 10 * make_boxes.ROWS < TUNING


def test_the_shipped_job_reads_it_and_every_row_has_a_box_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    job = load_job("jobs/train_exemplar.yaml")
    assert isinstance(job, TrainJob)
    params = check_params(TrainParams, job.params, "the shipped job")
    rows = read_rows(job.manifests).table.to_pylist()
    assert len(rows) == make_boxes.ROWS
    side = 2 * make_boxes.SIZE
    assert all(usable(row["boxes"], side, side, params.min_area, params.max_area) for row in rows)
