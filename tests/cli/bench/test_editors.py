"""The editor that stands in for networks keeps the contract and edits nothing."""

from __future__ import annotations

import numpy as np
from retouch.cli.bench.editors import SIMULATED, SimulatedEditor
from retouch.plugins import find
from retouch.schema import Batch
from retouch.testing import check_editor


def test_a_job_finds_it_and_it_keeps_an_editors_contract() -> None:
    check_editor(find("editors", SIMULATED), {"seconds": 0.0}, {})


def test_images_come_back_unchanged() -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    params = SimulatedEditor.Params(image_size=8, seconds=0.0)
    batch = Batch(images, np.ones((2, 8, 8), bool), ["", ""], [1, 2])
    assert np.array_equal(
        [result.image for result in SimulatedEditor.load(params, {}, "cpu").edit_batch(batch)], images
    )
