"""The short form on Ray, in a file of its own: such files take turns."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import faults
from tests.chaos.world import make_world


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_actors_that_are_killed_lose_no_row_and_change_none(tmp_path: Path, shared_ray: str) -> None:
    alone = make_world(tmp_path, 8, executor="local")  # its files are what the disturbed run's must equal
    outcome = faults.kill_actors(replace(alone, cluster=shared_ray, executor="ray"), 1, random.Random(4))
    assert outcome.clean, outcome
