"""A cluster that is started here: what it does without, and what the wait for it is used for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray(own=True)

# Of the processes that name the cluster's own folder, those that are of the API server.
LOCAL = """
import sys
from pathlib import Path
from retouch.execution.executors.ray.cluster import cluster

def commands():
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_bytes().replace(b"\\0", b" ").decode(errors="replace")
        except OSError:
            pass

with cluster(None, None, meanwhile="colorsys") as may_grow:
    import ray
    folder = ray._private.worker._global_node.get_session_dir_path()
    ours = [line for line in commands() if folder in line]
    print(may_grow, "colorsys" in sys.modules, len(ours) > 2, sum("dashboard.py" in line for line in ours))
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder: Path = tmp_path_factory.mktemp("started")
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", LOCAL]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_module_that_will_be_wanted_is_imported_while_ray_starts(
    started: subprocess.CompletedProcess[str],
) -> None:
    grows, imported, *_ = started.stdout.split()
    assert (grows, imported) == ("False", "True"), started.stderr


def test_no_api_server_is_started_and_nothing_said_of_it(started: subprocess.CompletedProcess[str]) -> None:
    *_, daemons, servers = started.stdout.split()
    assert (daemons, servers) == ("True", "0"), started.stderr
    assert "occupied" not in started.stderr
    assert "unclosed <socket" not in started.stderr
