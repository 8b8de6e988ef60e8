"""The stand-ins are editors like others, and edit nothing."""

from __future__ import annotations

import numpy as np
import pytest
from retouch.cli.bench import editors
from retouch.cli.bench.editors import NullEditor, SimulatedEditor
from retouch.plugins import find
from retouch.schema import Batch
from retouch.testing import check_editor


@pytest.mark.parametrize(("name", "params"), [(editors.NULL, {}), (editors.SIMULATED, {"seconds": 0.0})])
def test_a_job_finds_them_and_they_keep_an_editors_contract(name: str, params: dict[str, float]) -> None:
    check_editor(find("editors", name), params, {})


@pytest.mark.parametrize("editor", [NullEditor, SimulatedEditor])
def test_images_come_back_as_they_came(editor: type) -> None:
    images = np.random.default_rng(0).integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    params = editor.Params(image_size=8, **({"seconds": 0.0} if editor is SimulatedEditor else {}))
    batch = Batch(images, np.ones((2, 8, 8), bool), ["", ""], [1, 2])
    assert np.array_equal([result.image for result in editor.load(params, {}, "cpu").edit_batch(batch)], images)
