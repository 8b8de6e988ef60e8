"""The exemplars' manifest is what its script writes, with references that the network was not trained on."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
from retouch.imaging import codec
from retouch.jobs.config import load_job

from manifests import make_exemplars
from tests import ROOT


def test_the_committed_exemplars_are_what_the_maker_makes() -> None:
    stored, made = pq.read_table(ROOT / "manifests" / "exemplars.parquet"), make_exemplars.make()
    files = ["image", "mask", "exemplar"]
    assert stored.drop_columns(files) == made.drop_columns(files), "run python manifests/make_exemplars.py again"
    for column in files:
        for old, new in zip(stored[column].to_pylist(), made[column].to_pylist(), strict=True):
            seen = codec.decode_image(old["bytes"]).pixels
            np.testing.assert_array_equal(seen, codec.decode_image(new["bytes"]).pixels)


def test_an_exemplar_is_never_a_piece_of_the_scene_that_it_goes_into() -> None:
    for row in pq.read_table(ROOT / "manifests" / "exemplars.parquet").to_pylist():
        scene, exemplar = (codec.decode_image(row[name]["bytes"]).pixels for name in ("image", "exemplar"))
        assert not np.array_equal(scene, exemplar)
        ground = np.median(scene.reshape(-1, 3), axis=0)
        corners = exemplar[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert np.abs(corners - ground).sum(axis=1).max() > 20  # another ground


def test_the_exemplar_job_names_the_manifest() -> None:
    assert load_job(str(ROOT / "jobs" / "exemplar.yaml")).manifest == "manifests/exemplars.parquet"
