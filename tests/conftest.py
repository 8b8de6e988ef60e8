"""Fixtures that several test files share: places to store things, from a folder to a real S3 service."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from retouch import storage

from tests import ROOT
from tests.helpers.s3_server import INSTALL, Endpoint, ceph, missing_programs


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files with tests that start Ray take turns on one process; the others run beside them on the second.

    By file, since xdist's own groups need a pytest whose node ids can be changed. The README's commands are as long as
    half of all the others' turns and mostly in one process, so they go with the second.
    """
    from xdist.scheduler import LoadScopeScheduling

    files = (ROOT / "tests").rglob("test_*.py")
    starts_ray = {path.relative_to(ROOT).as_posix() for path in files if "pytest.mark.ray" in path.read_text()}
    starts_ray -= {"tests/test_readme.py"}

    class TakingTurns(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "ray" if file in starts_ray else file

    return TakingTurns(config, log)


# A cluster of two workers and their helpers, until its input ends; its address on the first line.
RAY = """
import sys
from retouch.execution.executors.ray.cluster import cluster
with cluster(None, 2, spare_cpus=1.0):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """The address of a Ray cluster that runs as long as the session: starting one takes longer than most tests."""
    with subprocess.Popen(
        [sys.executable, "-c", RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdin is not None
        assert head.stdout is not None
        yield head.stdout.readline().strip()
        import ray

        ray.shutdown()  # a driver whose cluster goes is ended with it
        head.stdin.close()


@pytest.fixture(autouse=True)
def _ray_of_the_session(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests marked ``ray`` work on the session's cluster; those marked ``ray(own=True)`` start one of their own."""
    marker = request.node.get_closest_marker("ray")
    if marker is None:
        return
    if not marker.kwargs.get("own"):
        monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue("shared_ray"))
        return
    import ray

    ray.shutdown()  # of the session's cluster
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def ceph_endpoint() -> Iterator[Endpoint]:
    """A running Ceph radosgw, one for the whole session."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no {', '.join(missing)}; {INSTALL}")
    with ceph() as service:
        yield service.endpoint


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[Endpoint]:
    """A running moto server, one for the whole session: quick, but it neither checks signatures nor survives."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Endpoint(f"http://{host}:{port}")
    server.stop()


@pytest.fixture
def real_s3(ceph_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket on a real S3 service, ``s3://BUCKET``; the environment points to the service."""
    return new_bucket(ceph_endpoint, monkeypatch)


@pytest.fixture
def moto_s3(moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket on moto, ``s3://BUCKET``; the environment points to it."""
    return new_bucket(moto_endpoint, monkeypatch)


@pytest.fixture(params=["local", "memory", "moto", pytest.param("ceph", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder on every kind of storage in turn."""
    if request.param == "local":
        return str(tmp_path / "place")
    if request.param == "memory":
        return f"memory://{secrets.token_hex(6)}"
    bucket: str = request.getfixturevalue("real_s3" if request.param == "ceph" else "moto_s3")
    return f"{bucket}/some/place"


def new_bucket(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """Point the environment to a service and make a bucket there."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in endpoint.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"retouch-{secrets.token_hex(6)}"
    storage.filesystem(f"s3://{bucket}")[0].mkdir(bucket)
    return f"s3://{bucket}"
