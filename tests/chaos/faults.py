"""What is done to a run. Each returns what came of it."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from retouch import storage

from tests.chaos.world import (
    PATIENCE,
    ROOT,
    Outcome,
    World,
    kill,
    log_of,
    parts,
    running_ray,
    watch,
    workers,
)
from tests.helpers.s3_server import Ceph, Endpoint, Fault, faulty

EDITOR = "MapBatches(EditActor)"
A_FEW_BLOCKS = 5.0  # seconds
FAULTY_SHARE = 0.1  # of all requests


def kill_drivers(world: World, times: int, dice: random.Random) -> Outcome:
    """Kill -9 of the command at random moments, and the same command again."""
    outcome, runs = Outcome("kill -9 of the command"), 0
    while outcome.times < times:
        output, runs = world.output(f"drivers-{runs}"), runs + 1  # one that has ended has nothing to be killed in
        while not _ended(world, output, outcome, times, dice):
            pass
        world.judge(outcome, output)
    return outcome


def _ended(world: World, output: str, outcome: Outcome, times: int, dice: random.Random) -> bool:
    """One life of the command; True where it came to its end before it was killed.

    Every second life ends at any moment, the others in the middle of the work: a start takes longer than a few rows.
    """
    process = world.start(world.command(output))
    begun, before, moment = time.monotonic(), parts(output), dice.uniform(1, world.seconds)
    at_work = math.inf if outcome.times % 2 else dice.uniform(0, min(A_FEW_BLOCKS, world.seconds / 10))
    first, committed = not before, math.inf  # a first start resumes nothing
    while process.poll() is None:
        now = time.monotonic()
        if committed == math.inf and parts(output) - before:
            committed = now
            outcome.resume_seconds += [] if first else [now - begun]
        is_time = now - begun > moment if at_work == math.inf else now - committed > at_work
        if outcome.times < times and is_time:
            process.kill()
            process.wait()
            outcome.times += 1
            return False
        time.sleep(0.1)
    assert process.returncode == 0, log_of(world)
    return True


def kill_actors(world: World, times: int, dice: random.Random) -> Outcome:
    """Kill -9 of actors that edit."""
    return _while_it_runs(world, "kill -9 of an edit actor", times, lambda: _kill_one(dice), dice, (6, 12))


def _kill_one(dice: random.Random) -> bool:
    found = workers(EDITOR)
    if found:
        kill(dice.choice(found))
    return bool(found)


def _while_it_runs(
    world: World,
    fault: str,
    times: int,
    hurt: Callable[[], bool],
    dice: random.Random,
    pause: tuple[float, float],
    *sets: str,
    ready: Callable[[], bool] = lambda: True,
    **environment: str,
) -> Outcome:
    """Hurt something again and again while the command runs, which must come to its end all the same."""
    outcome, runs = Outcome(fault), 0
    while outcome.times < times:
        assert watch(ready), "the cluster did not get ready"
        output, runs = world.output(f"{fault.replace(' ', '-')}-{runs}"), runs + 1
        process = world.start(world.command(output, *sets), **environment)
        watch(lambda: bool(parts(output)) or process.poll() is not None)  # noqa: B023 (called at once)
        while process.poll() is None:
            if outcome.times < times and hurt():
                outcome.times += 1
                hurt_at, before = time.monotonic(), parts(output)
                if watch(lambda: bool(parts(output) - before) or process.poll() is not None):  # noqa: B023
                    outcome.resume_seconds.append(time.monotonic() - hurt_at)
            watch(lambda: process.poll() is not None, dice.uniform(*pause))  # noqa: B023
        assert process.returncode == 0, log_of(world)
        world.judge(outcome, output)
    return outcome


def kill_nodes(world: World, times: int, dice: random.Random) -> Outcome:
    """Kill -9 of a Ray node with all its workers; another one joins a little later."""
    import ray

    with two_nodes(world) as (address, nodes):
        return _while_it_runs(
            world,
            "kill -9 of a node",
            times,
            nodes.replace,
            dice,
            (15, 25),
            "ray.resources={edit: 1}",
            "ray.actors=1",
            ready=lambda: ray.cluster_resources().get("edit", 0) >= 1,
            RAY_ADDRESS=address,
        )


class Node:
    """A Ray node that edits, in a session of its own."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.process = self._start()

    def replace(self) -> bool:
        """Kill it with all that it runs, and start another."""
        if not workers(EDITOR):
            return False
        self.end()
        self.process = self._start()
        return True

    def end(self) -> None:
        """Kill -9 of its raylet and of every process of its session."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        ray = [str(Path(sys.executable).parent / "ray"), "start", f"--address={self.address}", "--block"]
        taken = ["--num-cpus=2", '--resources={"edit": 1}', "--object-store-memory=200000000"]
        with (self.folder / "node-log").open("ab") as log:
            return subprocess.Popen(
                [*ray, *taken],
                cwd=ROOT,
                env={**os.environ, "RAY_AUTH_MODE": "disabled"},  # as the head has it
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def two_nodes(world: World) -> Iterator[tuple[str, Node]]:
    """A head without the resource that editing needs, and a node that has it."""
    import ray

    with running_ray() as address:
        ray.init(address=address, log_to_driver=False)
        node = Node(address, world.folder)
        try:
            yield address, node
        finally:
            node.end()
            ray.shutdown()


def fail_requests(world: World, service: Endpoint, bucket: str, dice: random.Random) -> Outcome:
    """A tenth of all requests to S3 fails: refused, broken off, cut short, changed on the way, or slow."""
    faults: tuple[Fault, ...] = (503, 500, 0, "cut", "flip", "slow")
    seen: list[Fault] = []

    def answer(method: str, path: str) -> Fault:
        if dice.random() >= FAULTY_SHARE:
            return None
        seen.append(dice.choice(faults))
        return seen[-1]

    outcome = Outcome("S3: a tenth of all requests fails")
    manifest = _on_s3(world, bucket)
    with faulty(service, answer) as gateway:
        output = f"{bucket}/faulty"
        process = _start_on_s3(world, gateway, output, manifest)
        assert process.wait(PATIENCE) == 0, log_of(world)
    outcome.times = len(seen)
    return world.judge(outcome, output)


def hurt_s3(world: World, service: Ceph, bucket: str) -> Outcome:
    """The gateway is killed and starts again, the disk stands still for some seconds, in the middle of a run."""
    outcome = Outcome("S3: gateway killed, disk stalled")
    output = f"{bucket}/hurt"
    process = _start_on_s3(world, service.endpoint, output, _on_s3(world, bucket))
    watch(lambda: bool(parts(output)) or process.poll() is not None)
    for hurt in (_kill_gateway, _stall_disk):
        if process.poll() is None:
            before = parts(output)
            hurt(service)
            hurt_at = time.monotonic()
            outcome.times += 1
            watch(lambda: bool(parts(output) - before) or process.poll() is not None)  # noqa: B023
            outcome.resume_seconds.append(time.monotonic() - hurt_at)
    assert process.wait(PATIENCE) == 0, log_of(world)
    return world.judge(outcome, output)


def _kill_gateway(service: Ceph) -> None:
    kill(service.pid("radosgw"))
    time.sleep(2)
    service.revive_gateway()


def _stall_disk(service: Ceph) -> None:
    os.kill(service.pid("osd"), signal.SIGSTOP)
    time.sleep(4)
    os.kill(service.pid("osd"), signal.SIGCONT)


def _on_s3(world: World, bucket: str) -> str:
    """The rows with their images and masks as objects."""
    rows = pq.read_table(world.folder / "rows.parquet").to_pylist()
    for row in rows:
        for name in ("image", "mask"):
            address = f"{bucket}/files/{name}-{row['key']}.png"
            storage.write_bytes(address, row[name]["bytes"])
            row[name] = {"bytes": None, "path": address}
    manifest = world.folder / "on-s3.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(world.folder / "rows.parquet")), manifest)
    return str(manifest)


def _start_on_s3(world: World, endpoint: Endpoint, output: str, manifest: str) -> subprocess.Popen[bytes]:
    # Of its own Ray: workers have the environment of the node that starts them.
    alone = replace(world, cluster=None)
    return alone.start(alone.command(output, manifest=manifest), **endpoint.environment)


def two_at_once(world: World, times: int) -> Outcome:
    """Two commands on one output, started together: one does it, the other is told to wait."""
    outcome = Outcome("two commands at once")
    for number in range(times):
        output = world.output(f"both-{number}")
        both = [world.start(world.command(output)) for _ in range(2)]
        codes = sorted(process.wait(PATIENCE) for process in both)
        assert codes in ([0, 3], [0, 0]), log_of(world)  # the second may come when the first is through
        outcome.times += 1
        world.judge(outcome, output)
    return outcome


def stand_still(world: World) -> Outcome:
    """A command is stopped with its workers, another takes over, the first wakes up in the middle of its writing."""
    outcome = Outcome("a command that stood still wakes up")
    output = world.output("still")
    here = replace(world, executor="local")
    first = here.start(here.command(output))
    watch(lambda: bool(parts(output)))
    os.killpg(first.pid, signal.SIGSTOP)
    begun, before = time.monotonic(), parts(output)
    second = world.start(world.command(output))
    watch(lambda: bool(parts(output) - before) or second.poll() is not None)
    outcome.resume_seconds.append(time.monotonic() - begun)
    os.killpg(first.pid, signal.SIGCONT)
    assert first.wait(PATIENCE) == 3, log_of(world)
    assert second.wait(PATIENCE) == 0, log_of(world)
    outcome.times += 1
    return world.judge(outcome, output)


def jump_clock(world: World, library: str) -> Outcome:
    """The clock of the command goes a day ahead and two days back, again and again, while it runs."""
    outcome = Outcome("the clock jumps")
    output, clock = world.output("clock"), world.folder / "clock"
    clock.write_text("+0")
    here = replace(world, executor="local")
    process = here.start(
        here.command(output),
        LD_PRELOAD=library,
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    watch(lambda: bool(parts(output)) or process.poll() is not None)
    while process.poll() is None:
        clock.write_text("+1d" if outcome.times % 2 == 0 else "-1d")
        outcome.times += 1
        watch(lambda: process.poll() is not None, 2)
    assert process.returncode == 0, log_of(world)
    return world.judge(outcome, output)
