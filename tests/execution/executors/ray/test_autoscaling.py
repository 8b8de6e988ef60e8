"""A cluster that grows by itself is asked for what a command can use, and waited for."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from retouch.errors import ConfigError
from retouch.execution.executors.ray import autoscaling

pytestmark = pytest.mark.ray


def there() -> dict[str, float]:
    import ray
    from retouch.execution.executors.ray.cluster import cluster

    with cluster(None, None):
        found: dict[str, float] = ray.cluster_resources()
        return found


def test_a_cluster_that_does_not_grow_is_what_it_is_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(autoscaling.VARIABLE, raising=False)
    before = there()
    with autoscaling.resources({"GPU": 1.0}, 8) as found:
        assert found == before
        assert "GPU" not in found


def test_a_wait_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(autoscaling.VARIABLE, "an hour")
    with pytest.raises(ConfigError, match="a number of seconds"), autoscaling.resources({"GPU": 1.0}, 1):
        pass


# Asks for two GPUs where there is none, and prints what came of it, and what is asked for afterwards.
ASKING = """
from retouch.execution.executors.ray import autoscaling
from retouch.execution.executors.ray.cluster import cluster
import sys
with cluster(sys.argv[1], None):
    with autoscaling.resources({"GPU": 1.0, "CPU": 0.0}, 2, at_least=2) as available:
        print("GPU", available.get("GPU", 0.0))
"""


COMMANDS = (
    *("cluster_synced_files", "initialization_commands", "setup_commands", "head_setup_commands"),
    *("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)


def growing(port: int) -> dict[str, object]:
    """A cluster of a head and, as they are asked for, nodes with one GPU each: all of them on this machine."""
    return {
        "cluster_name": "growing",
        "max_workers": 4,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"127.0.0.1:{port}",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {
                "resources": {"GPU": 1, "object_store_memory": 100 << 20},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 4,
            },
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 1,
        "file_mounts_sync_continuously": False,
        **{name: {} for name in ("auth", "docker", "file_mounts", "head_node", "worker_nodes")},
        **{name: [] for name in COMMANDS},
    }


@pytest.fixture
def growing_cluster() -> Iterator[str]:
    """The address of a cluster with Ray's own autoscaler and no GPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="rt-", ignore_cleanup_errors=True) as folder:
        config = Path(folder) / "cluster.json"
        config.write_text(json.dumps(growing(port)))
        environment = {
            **os.environ,
            "RAY_FAKE_CLUSTER": "1",
            "RAY_AUTH_MODE": "disabled",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "1",  # its nodes go soon after it
        }
        environment.pop("RAY_ADDRESS", None)
        command = [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=0", "--num-gpus=0"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}/ray"),
            *("--object-store-memory=104857600", f"--autoscaling-config={config}"),
        ]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as head:
            yield f"127.0.0.1:{port}"
            head.terminate()
            head.communicate()
        # What its nodes leave behind: the folder's name, which is in every one's arguments, is nobody else's.
        left = subprocess.run(["pgrep", "-f", folder], capture_output=True, text=True, check=False)
        for process in left.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray(own=True)
def test_a_cluster_that_grows_is_asked_for_gpus_and_waited_for(growing_cluster: str) -> None:
    environment = {**os.environ, autoscaling.VARIABLE: "120", "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", ASKING, growing_cluster], env=environment, capture_output=True, text=True, check=False
    )
    assert "GPU 2.0" in done.stdout, done.stderr
