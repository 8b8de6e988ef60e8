"""Ray clusters of several nodes on this machine: a head with a dashboard, and nodes that join and are killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.world import ROOT

RAY = str(Path(sys.executable).parent / "ray")
OBJECT_STORE = 200_000_000  # bytes
TIMEOUT = 120.0  # seconds
STARTS = 3


class Node:
    """A Ray node in its own session, so that all its processes can be killed at once."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        agents = (
            "--dashboard-agent-listen-port",
            "--dashboard-agent-grpc-port",
            "--runtime-env-agent-port",
            "--metrics-export-port",
        )
        command = [RAY, "start", "--block", f"--object-store-memory={OBJECT_STORE}", "--disable-usage-stats"]
        command += [*arguments, *(f"{name}={free_port()}" for name in agents)]
        with (folder / "nodes.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**clean_environment(), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Send SIGKILL to its raylet and every process of its session."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """A running head node and the nodes that joined it."""

    def __init__(self, folder: Path, cpus: int, **environment: str) -> None:
        self.folder, self.environment = folder, {"RAY_AUTH_MODE": "disabled", **environment}
        gcs, web = free_port(), free_port()
        self.address, self.dashboard = f"127.0.0.1:{gcs}", f"http://127.0.0.1:{web}"
        self.nodes: list[Node] = []
        self._start(
            "--head",
            "--node-ip-address=127.0.0.1",
            f"--port={gcs}",
            f"--num-cpus={cpus}",
            f"--dashboard-port={web}",
            f"--ray-client-server-port={free_port()}",
        )

    def join(self, cpus: int, gpus: int = 0, **resources: float) -> Node:
        """Start another node, and return it when it has joined.

        A node that dies at its start is started again: a free port may be taken before Ray opens it, and on a busy
        machine Ray's agents may not start within its timeout.
        """
        kinds = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--resources={json.dumps(resources)}"]
        before = self.alive()
        for _ in range(STARTS):
            node = self._start("--node-ip-address=127.0.0.1", f"--address={self.address}", *kinds)
            wait_for(lambda: bool(self.alive() - before) or node.process.poll() is not None, self.log)  # noqa: B023
            if node.process.poll() is None:
                return node
        raise AssertionError(f"no node in {STARTS} starts: {self.log()}")

    def alive(self) -> set[str]:
        """Return the ids of the nodes that the head reports as alive."""
        import requests

        found = requests.get(f"{self.dashboard}/nodes?view=summary", timeout=30).json()["data"]["summary"]
        return {node["raylet"]["nodeId"] for node in found if node["raylet"].get("state") == "ALIVE"}

    def log(self) -> str:
        """Return the end of the nodes' log."""
        return (self.folder / "nodes.log").read_text(errors="replace")[-2000:]

    def end(self) -> None:
        """Kill all nodes."""
        for node in reversed(self.nodes):
            node.kill()

    def _start(self, *arguments: str) -> Node:
        # One folder per node, as on separate hosts: nodes would overwrite each other's copy of a job's folder.
        own = f"--temp-dir={self.folder / str(len(self.nodes))}"
        self.nodes.append(Node(self.folder, own, *arguments, **self.environment))
        return self.nodes[-1]


@contextmanager
def cluster(cpus: int, **environment: str) -> Iterator[Cluster]:
    """Start a head with a dashboard. Its folder has a short name, because a socket's path must be short."""
    with tempfile.TemporaryDirectory(prefix="rn-", ignore_cleanup_errors=True) as folder:
        found = Cluster(Path(folder), cpus, **environment)
        try:
            wait_for(lambda: answers(found.dashboard), lambda: (Path(folder) / "nodes.log").read_text()[-2000:])
            yield found
        finally:
            found.end()


def wait_for(done: Callable[[], bool], why: Callable[[], str] = str, seconds: float = TIMEOUT) -> None:
    """Return when ``done`` is true; fail with ``why`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not in time: {why()}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Return whether the dashboard at an address responds."""
    import requests

    try:
        return bool(requests.get(f"{url}/api/version", timeout=5).status_code < 500)
    except requests.RequestException:
        return False


def clean_environment() -> Mapping[str, str]:
    """Return this process's environment without variables of other clusters."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """Return a free port outside the range that Ray gives to its workers."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if not 10002 <= port <= 19999:
            return port
