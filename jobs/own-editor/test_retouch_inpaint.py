"""Tests that an editor's author writes: the contract, checked by ``retouch.testing``, and what edits look like."""

from __future__ import annotations

import numpy as np
import pytest
from retouch import load_editor
from retouch.errors import ConfigError
from retouch.testing import check_editor
from retouch_inpaint import Inpaint


@pytest.mark.parametrize("method", ["telea", "navier-stokes"])
def test_it_keeps_the_contract(method: str) -> None:
    """Check shapes, types and determinism, whatever an entry's place and batch."""
    check_editor(Inpaint, {"method": method, "size": 64}, weights={})


def test_a_hole_in_a_plain_wall_is_not_seen_any_more() -> None:
    """From Python, at the image's own size."""
    wall = np.full((90, 120, 3), (200, 180, 160), np.uint8)
    damaged = wall.copy()
    damaged[40:50, 60:80] = 0
    edited = load_editor("retouch_inpaint:Inpaint", size=64, device="cpu")(damaged, bbox=(60, 40, 80, 50))
    assert np.abs(edited.image.astype(int) - wall).max() <= 4
    assert edited.scores["seam"] < 4


def test_params_that_cannot_be_are_refused() -> None:
    """In one line, before a run starts."""
    with pytest.raises(ConfigError, match="radius is 0"):
        load_editor("retouch_inpaint:Inpaint", radius=0)
