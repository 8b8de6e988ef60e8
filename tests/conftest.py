"""What test files share: the choice of fast tests, a Ray cluster, and storage from a folder to a real S3 service."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from retouch import storage

from tests import ROOT
from tests.helpers.imports import imported_packages
from tests.helpers.s3_server import INSTALL, Endpoint, ceph, missing_programs

# Ray's default of 15 leaves its workers nothing while two other processes of tests run; 0 would keep a Ray that another
# test starts from answering within its 30 s.
os.environ.setdefault("RAY_worker_niceness", "5")
# Importing these takes 5 to 15 s per process; they are in tests of networks, browsers and Ray.
SLOW_TO_IMPORT = frozenset(
    {"datasets", "diffusers", "kornia", "lpips", "open_clip", "playwright", "ray", "torchmetrics", "torchvision"}
)
# Tests with these marks or fixtures wait for a server or a cluster, or take over a second.
SLOW_MARKS = frozenset({"gpu", "ray", "s3", "slow"})
SLOW_FIXTURES = frozenset({"ceph_endpoint", "shared_ray"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fast``, which ``make test-fast`` uses."""
    parser.addoption("--fast", action="store_true", help="leave out slow tests: networks, Ray, servers, browsers")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``--fast``, leave out a file that imports a slow library: deselecting its tests would import it."""
    if not config.getoption("--fast") or not collection_path.name.startswith("test_"):
        return None
    return bool(imported_packages(collection_path) & SLOW_TO_IMPORT) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip long tests without ``RETOUCH_LONG``. With ``--fast``, deselect slow tests."""
    if "RETOUCH_LONG" not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: RETOUCH_LONG=1 runs it"))
    if not config.getoption("--fast"):
        return
    slow = [item for item in items if _is_slow(item)]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)


def _is_slow(item: pytest.Item) -> bool:
    marks = {mark.name for mark in item.iter_markers()}
    return bool(marks & SLOW_MARKS) or not SLOW_FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the files with tests that start Ray one after another in one process, and all others in the rest.

    Groups are files, because xdist's own groups need a pytest whose node ids can be changed. The README's commands take
    half as long as all other Ray tests together and mostly use one process, so they are with the others.
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


# Starts a cluster of two workers, prints its address, and stops it when the input ends.
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
    """Return the address of a Ray cluster for the whole session: starting one takes longer than most tests."""
    with subprocess.Popen(
        [sys.executable, "-c", RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdin is not None
        assert head.stdout is not None
        yield head.stdout.readline().strip()
        import ray

        ray.shutdown()  # a driver that is connected when its cluster stops exits with it
        head.stdin.close()


@pytest.fixture(autouse=True)
def _ray_of_the_session(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run tests marked ``ray`` on the session's cluster; those marked ``ray(own=True)`` start their own."""
    marker = request.node.get_closest_marker("ray")
    if marker is None:
        return
    if not marker.kwargs.get("own"):
        monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue("shared_ray"))
        return
    import ray

    ray.shutdown()  # disconnects from the session's cluster
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def ceph_endpoint() -> Iterator[Endpoint]:
    """Start a Ceph radosgw for the whole session."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no {', '.join(missing)}; {INSTALL}")
    with ceph() as service:
        yield service.endpoint


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[Endpoint]:
    """Start a moto server for the whole session: quick, but it checks no signatures."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield Endpoint(f"http://{host}:{port}")
    server.stop()


@pytest.fixture
def real_s3(ceph_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a new bucket on a real S3 service, ``s3://BUCKET``; the environment points to the service."""
    return new_bucket(ceph_endpoint, monkeypatch)


@pytest.fixture
def moto_s3(moto_endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a new bucket on moto, ``s3://BUCKET``; the environment points to it."""
    return new_bucket(moto_endpoint, monkeypatch)


@pytest.fixture(params=["local", "memory", "moto", pytest.param("ceph", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return an empty folder, on each kind of storage."""
    if request.param == "local":
        return str(tmp_path / "place")
    if request.param == "memory":
        return f"memory://{secrets.token_hex(6)}"
    bucket: str = request.getfixturevalue("real_s3" if request.param == "ceph" else "moto_s3")
    return f"{bucket}/some/place"


def new_bucket(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a new bucket on a service that the environment then points to."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name, value in endpoint.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"retouch-{secrets.token_hex(6)}"
    storage.filesystem(f"s3://{bucket}")[0].mkdir(bucket)
    return f"s3://{bucket}"
