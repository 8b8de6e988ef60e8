"""Clusters of several nodes: jobs submitted to them, nodes that join and die, who does what where."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from retouch.outputs.verify import verify_output

from tests.chaos.world import ROOT, SHORT, parts
from tests.helpers.answers import answered
from tests.helpers.datasets import painter_job, write_dataset
from tests.helpers.ray_nodes import Cluster, clean_environment, cluster, wait_for
from tests.helpers.shadowing import CAUGHT, greys, write_folder
from tests.helpers.telltale import PLANTED

pytestmark = [pytest.mark.ray(own=True), pytest.mark.slow, pytest.mark.timeout(900)]

# A node that is killed is known to be dead in some seconds.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}
SECRETS = {"AWS_SECRET_ACCESS_KEY": f"{PLANTED}/secret+key", "MY_ENDPOINT": f"http://{PLANTED}:9000"}


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    """A head that can decode and write, and edits nothing."""
    with cluster(2, **QUICK) as head:
        yield head


class Command:
    """A ``retouch`` command under way."""

    def __init__(self, *arguments: str, folder: Path = ROOT, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "retouch", *arguments],
            cwd=folder,
            env={**clean_environment(), "RAY_AUTH_MODE": "disabled", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    @property
    def said(self) -> str:
        return "".join(self._said)

    def code(self) -> int:
        """Its exit code, when it has ended."""
        found = self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return found

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.append(line)


def committed(output: str, more_than: int, command: Command) -> None:
    """Wait until a run has put down more blocks."""
    wait_for(lambda: len(parts(output)) > more_than, lambda: command.said)
    assert not command.has_ended(), command.said


def tasks(ray: Cluster, name: str) -> Counter[bool]:
    """How many tasks whose name holds this ran on the head (True) and elsewhere (False)."""
    from ray.util.state import list_tasks

    head = head_of(ray)
    found = list_tasks(ray.dashboard, limit=5000, raise_on_missing_output=False)
    return Counter(task.node_id == head for task in found if name in (task.name or "") and task.node_id)


def editors(ray: Cluster) -> set[str]:
    """Ids of the nodes where an editor is loaded."""
    from ray.util.state import list_actors

    actors = list_actors(ray.dashboard, limit=1000, raise_on_missing_output=False)
    return {actor.node_id for actor in actors if "EditActor" in actor.class_name and actor.state == "ALIVE"}


def head_of(ray: Cluster) -> str:
    from ray.util.state import list_nodes

    return next(node.node_id for node in list_nodes(ray.dashboard) if node.is_head_node)


def test_a_job_waits_for_its_node_is_stopped_goes_on_grows_and_outlives_the_node(ray: Cluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = painter_job(
        tmp_path,
        write_dataset(tmp_path, 80),
        editor={
            "name": "tests.helpers.gated:GatedPainter",
            "weights": "embedded:shapes",
            "params": {"gate": str(gate)},
        },
        ray={"batch_size": 1, "rows_per_block": 1, "gpus_per_actor": 1},
    )
    file, at = tmp_path / "job.yaml", ("--address", ray.dashboard)
    file.write_text(yaml.safe_dump(job.model_dump(mode="json")))
    night = f"{job.name}-{dt.datetime.now(dt.UTC).date().isoformat()}"
    names = (part for name in SECRETS for part in ("--env", name))
    submit = ("submit", str(file), "--python", sys.executable, "--follow", *at, *names)

    first = Command(*submit, **SECRETS)
    wait_for(lambda: "for a node with 1 GPU" in first.said or first.has_ended(), lambda: first.said)
    assert not first.has_ended(), first.said
    refused, watcher = Command(*submit, **SECRETS), Command("jobs", "logs", night, "--follow", *at)
    wait_for(lambda: "for a node with 1 GPU" in watcher.said or watcher.has_ended(), lambda: watcher.said)
    watcher.interrupt()
    assert watcher.code() == 130, watcher.said
    assert f"{night} is still running; stop it: retouch jobs stop {night}" in watcher.said
    assert refused.code() == 2
    assert f"{night} exists already: RUNNING; --again" in refused.said

    one = ray.join(0, gpus=1)  # which torch does not see: it edits on the CPU
    committed(job.output, 0, first)
    stopped = Command("jobs", "stop", night, *at)
    assert stopped.code() == 0, stopped.said
    assert f"{night}: STOPPED" in stopped.said
    assert first.code() == 3, first.said
    before = len(answered(job.output))
    assert 0 < before < 80

    second = Command(*submit, **SECRETS)
    committed(job.output, len(parts(job.output)), second)
    assert len(editors(ray)) == 1
    ray.join(0, gpus=1)
    wait_for(lambda: len(editors(ray)) == 2 or second.has_ended(), lambda: second.said)
    assert not second.has_ended(), f"{second.said}: the second node came too late"
    assert head_of(ray) not in editors(ray)
    one.kill()
    gate.touch()
    assert second.code() == 0, second.said
    assert f"submitted: {night}-2\n" in second.said
    assert "rows: 80 = 80 success" in second.said
    assert int(second.said.split("this run: ")[1].split()[0]) <= 80 - before
    assert verify_output(job.output).ok
    assert all(tasks(ray, name).keys() == {True} for name in ("_decode", "_write"))

    listed = Command("jobs", "list", *at)
    assert listed.code() == 0
    assert [line.split(",")[0] for line in listed.said.splitlines()] == [
        f"{night}: STOPPED",
        f"{night}-2: SUCCEEDED (exit code 0)",
    ]
    said = "".join(command.said for command in (first, refused, watcher, stopped, second, listed))
    assert "AWS_SECRET_ACCESS_KEY, MY_ENDPOINT" in said
    assert PLANTED not in said
    for left in Path(job.output).rglob("*"):
        assert left.is_dir() or PLANTED.encode() not in left.read_bytes(), left


def test_a_job_in_a_folder_imports_its_plug_in_and_none_of_the_files_that_are_called_like_libraries(
    ray: Cluster, tmp_path: Path
) -> None:
    folder, output = tmp_path / "work", str(tmp_path / "out")
    write_folder(folder, output)
    sent = ("submit", str(folder / "job.yaml"), "--working-dir", str(folder), "--python", sys.executable, "--follow")
    command = Command(*sent, "--address", ray.dashboard)
    assert command.code() == 0, command.said
    assert greys(folder, output) == pytest.approx([200, 50], abs=10)  # resized, so not exact
    if "RETOUCH_LONG" in os.environ:  # a driver on this machine, as in test_shadowing, but on a cluster that runs
        here = Command("run", "job.yaml", "--address", ray.address, "--set", f"output={output}-2", folder=folder)
        assert here.code() == 0, here.said
        assert greys(folder, f"{output}-2") == pytest.approx([200, 50], abs=10)
    assert not (folder / CAUGHT).exists(), (folder / CAUGHT).read_text()


@pytest.mark.long
def test_the_quickstart_in_a_folder_that_is_sent_outlives_its_node(ray: Cluster, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    submit = [
        *("submit", "jobs/quickstart.yaml", "--working-dir", ".", "--python", sys.executable, "--follow"),
        *("--address", ray.dashboard),
        *(part for change in (*SHORT, f"output={output}", "ray.resources={edit: 1}") for part in ("--set", change)),
    ]
    node = ray.join(1, edit=1)
    command = Command(*submit, "--", "--limit", "24")
    committed(output, 0, command)
    node.kill()
    ray.join(1, edit=1)
    assert command.code() == 0, command.said
    assert "rows: 24 = 24 success" in command.said
    verified = Command("verify", output)
    assert verified.code() == 0, verified.said
    wrong = Command(*submit, "--again", "--set", "manifest=/no/such/manifest")
    assert wrong.code() == 2, wrong.said
    assert "FAILED (exit code 2)" in wrong.said


def test_a_node_that_never_comes_ends_the_run_in_one_line(ray: Cluster, tmp_path: Path) -> None:
    job = painter_job(tmp_path, write_dataset(tmp_path, 2), ray={"actors": 2, "gpus_per_actor": 8, "stall_seconds": 3})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    command = Command("run", str(tmp_path / "job.yaml"), "--address", ray.address)
    assert command.code() == 3, command.said
    waits, ends = command.said.splitlines()
    assert "waiting up to 3 s for a node with 8 GPU" in waits
    assert ends.startswith("retouch: no node with 8 GPU joined within 3 s (ray.stall_seconds)")
    assert "waiting up to 3 s" in (Path(job.output) / "events.jsonl").read_text()


@pytest.mark.long
def test_a_cluster_with_tokens_lets_in_who_has_the_token_and_says_what_is_missing() -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}
    with cluster(1, **token) as closed:
        outside = Command("jobs", "list", "--address", closed.dashboard)
        assert (outside.code(), outside.said.count("\n")) == (2, 1), outside.said
        assert "refuses the connection: set RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN" in outside.said
        inside = Command("jobs", "list", "--address", closed.dashboard, **token)
        assert (inside.code(), inside.said) == (0, "")
