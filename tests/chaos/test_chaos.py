"""The short form: each kind of fault a few times, on the real job. ``make chaos`` has the long one."""

from __future__ import annotations

import random

import pytest

from tests.chaos import faults
from tests.chaos.world import Outcome, World, make_world
from tests.helpers.s3_server import Endpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("chaos"), 8, executor="local")


def assert_clean(outcome: Outcome) -> None:
    assert outcome.clean, outcome


def test_commands_that_are_killed_lose_no_row_and_change_none(world: World) -> None:
    assert_clean(faults.kill_drivers(world, 1, random.Random(3)))


@pytest.mark.long
def test_of_two_commands_at_once_one_waits_and_every_row_is_answered_once(world: World) -> None:
    assert_clean(faults.two_at_once(world, 1))


@pytest.mark.s3
def test_a_tenth_of_all_requests_to_s3_may_fail(world: World, real_s3: str, ceph_endpoint: Endpoint) -> None:
    assert_clean(faults.fail_requests(world, ceph_endpoint, real_s3, random.Random(5)))
