"""``python -m tests.chaos``: the long form; prints a table, ends with 1 if a row was lost, doubled or changed."""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from retouch import storage

from tests.chaos import faults
from tests.chaos.world import Outcome, World, make_world, running_ray
from tests.helpers.s3_server import ceph, missing_programs

ROWS = 24
FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
)


def main() -> int:
    """Hurt the job in every way, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1000))
    parser.add_argument("--only", help="faults by a part of their names, with commas between them")
    parser.add_argument("--share", type=float, default=1.0, help="of the times that each fault comes, at least once")
    asked = parser.parse_args()
    dice = random.Random(asked.seed)
    print(f"seed {asked.seed}, {ROWS} rows, Python {platform.python_version()}, {os.cpu_count()} CPU cores", flush=True)
    outcomes = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        world = make_world(folder, ROWS, stack.enter_context(running_ray()))
        for name, hurt in all_faults(world, dice, stack, asked.share):
            if asked.only and not any(part in name for part in asked.only.split(",")):
                continue
            started = time.monotonic()
            outcomes.append(hurt())
            print(f"{line(outcomes[-1])}  ({time.monotonic() - started:.0f} s in all)", flush=True)
    print("\n".join(["", *table(outcomes)]))
    return 0 if outcomes and all(outcome.clean for outcome in outcomes) else 1


def all_faults(
    world: World, dice: random.Random, stack: ExitStack, share: float
) -> Iterator[tuple[str, Callable[[], Outcome]]]:
    """Name and deed; what this machine lacks is said and left out."""

    def times(most: int) -> int:
        return max(1, round(most * share))

    yield "drivers", lambda: faults.kill_drivers(world, times(20), dice)
    yield "actors", lambda: faults.kill_actors(world, times(20), dice)
    yield "nodes", lambda: faults.kill_nodes(world, times(5), dice)
    yield "both", lambda: faults.two_at_once(world, times(3))
    yield "still", lambda: faults.stand_still(world)
    library = next((path for path in FAKETIME if os.path.exists(path)), None)
    if library:
        yield "clock", lambda: faults.jump_clock(world, str(library))
    else:
        print("no libfaketime: the clock is left alone; apt-get install faketime")
    if missing_programs():
        print("no Ceph: S3 is left alone; see tests/helpers/s3_server.py")
        return
    service = stack.enter_context(ceph())
    os.environ.update(service.endpoint.environment)
    bucket = "s3://chaos"
    storage.filesystem(bucket)[0].mkdir("chaos")
    yield "requests", lambda: faults.fail_requests(world, service.endpoint, bucket, dice)
    yield "hurt", lambda: faults.hurt_s3(world, service, bucket)


def table(outcomes: list[Outcome]) -> list[str]:
    """The outcomes as Markdown."""
    head = "| fault | times | rows | lost | duplicated | differ | seconds to resume, median (longest) |"
    rows = [
        f"| {o.fault} | {o.times} | {o.rows} | {o.lost} | {o.duplicated} | {o.differ} | {resumed(o)} |"
        for o in outcomes
    ]
    return [head, "|---|---|---|---|---|---|---|", *rows]


def line(outcome: Outcome) -> str:
    """One outcome as it comes."""
    found = f"{outcome.lost} lost, {outcome.duplicated} duplicated, {outcome.differ} differ"
    return f"{outcome.fault}: {outcome.times} times, {outcome.rows} rows, {found}, resumed after {resumed(outcome)} s"


def resumed(outcome: Outcome) -> str:
    """Median and maximum."""
    seconds = outcome.resume_seconds
    return f"{median(seconds):.1f} ({max(seconds):.1f})" if seconds else "-"


if __name__ == "__main__":
    sys.exit(main())
