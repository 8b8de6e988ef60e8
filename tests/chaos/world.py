"""A small copy of the shipped job to hurt, and what an undisturbed run of it gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from retouch import storage
from retouch.outputs import results
from retouch.outputs.verify import verify_output

from tests import ROOT

PATIENCE = 600.0  # seconds in which a run must come to its end
Table = Mapping[str, tuple[str, str]]  # key to (status, sha256)


@dataclass
class Outcome:
    """What came of one kind of fault."""

    fault: str
    times: int = 0
    rows: int = 0
    lost: int = 0
    duplicated: int = 0
    differ: int = 0
    resume_seconds: list[float] = field(default_factory=list)  # from the fault, or the new start, to the next commit

    @property
    def clean(self) -> bool:
        """Whether every row was answered once, as in the undisturbed run."""
        return self.times > 0 and self.rows > 0 and not (self.lost or self.duplicated or self.differ)


@dataclass(frozen=True)
class World:
    """The job on some rows, in a folder of its own."""

    folder: Path
    rows: int
    whole: Table  # of the undisturbed run
    seconds: float  # that the undisturbed run took
    cluster: str | None = None  # of a running Ray
    executor: str = "ray"

    def output(self, name: str) -> str:
        """A fresh output."""
        return str(self.folder / "runs" / name)

    def command(self, output: str, *sets: str, manifest: str | None = None) -> list[str]:
        """The command for the job on an output."""
        changes = [f"output={output}", f"manifest={manifest or self.folder / 'rows.parquet'}", *SHORT, *sets]
        options = ["--executor", self.executor, *(part for change in changes for part in ("--set", change))]
        return [sys.executable, "-P", "-m", "retouch", "run", "jobs/quickstart.yaml", *options]

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own, its words in a log."""
        known = {**os.environ}
        known.pop("RAY_ADDRESS", None)
        known |= {"RAY_ADDRESS": self.cluster} if self.cluster else {}
        known |= environment
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, env=known, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def judge(self, outcome: Outcome, output: str) -> Outcome:
        """Hold an output's answers against the undisturbed run's."""
        proof = verify_output(output)
        found = table_of(output)
        outcome.rows += self.rows
        outcome.lost += len(proof.missing_rows) + len(proof.missing_images) + len(set(self.whole) - set(found))
        outcome.duplicated += len(proof.duplicates) + len(proof.orphan_rows)
        differ = [key for key, row in self.whole.items() if found.get(key, row) != row]
        outcome.differ += len(proof.hash_mismatches) + len(differ)
        return outcome


# Few steps, and blocks of one pass, so that there is much to be killed in a short time.
SHORT = (
    "editor.params.timesteps=8",
    "editor.params.skip_timesteps=1",
    "editor.params.aug_num=2",
    "candidates=2",
    "ray.rows_per_block=4",
    "metrics=[]",
)


def make_world(folder: Path, rows: int, cluster: str | None = None, executor: str = "ray") -> World:
    """The shipped rows, again and again under other keys, and the undisturbed run on them."""
    shipped = pq.read_table(ROOT / "manifests/shapes.parquet")
    copies = pa.concat_tables([shipped] * -(-rows // shipped.num_rows)).slice(0, rows)
    keys = pa.array([f"row-{number:04d}" for number in range(rows)])
    pq.write_table(copies.set_column(copies.column_names.index("key"), "key", keys), folder / "rows.parquet")
    world, begun = World(folder, rows, {}, 0.0, cluster, executor), time.monotonic()
    assert world.start(world.command(world.output("whole"))).wait(PATIENCE) == 0, log_of(world)
    return replace(world, whole=table_of(world.output("whole")), seconds=time.monotonic() - begun)


def table_of(output: str) -> Table:
    """Key to status and hash of the image, read as anybody reads the folder."""
    table = results.read(output, ["key", "status", "sha256"])
    return {row["key"]: (row["status"], row["sha256"] or "") for row in table.to_pylist()}


def parts(output: str) -> set[str]:
    """Files of the results table, whose number grows with every commit."""
    return set(storage.list_files(storage.join(output, results.FOLDER)))


def log_of(world: World) -> str:
    """The last words of the commands."""
    return (world.folder / "log").read_text(errors="replace")[-3000:]


def watch(done: Callable[[], bool], seconds: float = PATIENCE, interval: float = 0.1) -> bool:
    """Wait until something is so; False where it was not in time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def workers(title: str) -> list[int]:
    """Ray's worker processes below this one whose title holds this."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_text()
            if words.startswith("ray::") and title in words:
                found.append(int(folder.name))
    return [pid for pid in found if os.getpid() in _ancestors(pid, parents)]


def _ancestors(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while pid in parents:
        pid = parents[pid]
        yield pid


def kill(pid: int) -> None:
    """Kill -9; one that has ended is as good as killed."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@contextmanager
def running_ray() -> Iterator[str]:
    """A Ray cluster of its own for commands that come and go."""
    from tests.conftest import RAY

    with subprocess.Popen(
        [sys.executable, "-c", RAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as head:
        assert head.stdin is not None
        assert head.stdout is not None
        yield head.stdout.readline().strip()
        head.stdin.close()
