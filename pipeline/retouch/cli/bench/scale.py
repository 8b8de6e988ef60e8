"""How a run's own work grows with its rows: an editor that edits nothing, small images, the command as users start it.

Every figure is of a process of its own, so that its peak of memory is its own too.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from retouch.cli.bench.editors import NULL
from retouch.errors import RetouchError
from retouch.imaging import codec

IMAGES: Final = 1000  # different image files that the rows of a manifest name in turn
SIDE: Final = 32  # pixels
ROWS_A_BLOCK: Final = 1000  # auto keeps blocks small, since it knows of no edit that costs nothing
ROWS_A_GROUP: Final = 50_000  # of the manifest's Parquet row groups
# Says its own peak: what the system says of a child holds its parent's memory at the moment of the fork.
_PEAK: Final = """
import atexit, pathlib, sys
def peak():
    status = pathlib.Path('/proc/self/status').read_text()
    pathlib.Path(sys.argv[1]).write_text(next(line.split()[1] for line in status.splitlines() if 'VmHWM' in line))
atexit.register(peak)
"""
_COMMAND: Final = "from retouch.cli.app import main; main(sys.argv[2:])"
_PLANNED: Final = """
from retouch.jobs.config import load_job
from retouch.execution.plan import make_plan
make_plan(load_job(sys.argv[2]))
"""


def measure(
    rows: Sequence[int], *, executor: str = "ray", sink: str = "tar", folder: str | None = None
) -> Iterator[dict[str, Any]]:
    """A record a size: seconds, rows a second and peak MiB of run, of the same run again, and of verify.

    Args:
        rows: sizes of manifests.
        executor: ``ray`` or ``local``.
        sink: of the edited images.
        folder: where to work; what is written there stays. None: a temporary one.

    Raises:
        RetouchError: a command failed; with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        place = Path(folder or temporary).absolute()
        _draw(place)
        for count in rows:
            yield _measured(place, count, executor, sink)


def _measured(place: Path, rows: int, executor: str, sink: str) -> dict[str, Any]:
    job = _job(place, rows, sink)
    output = str(place / f"out-{rows}")
    record: dict[str, Any] = {"rows": rows, "executor": executor, "sink": sink}
    run = ["run", str(job), "--executor", executor]
    seconds, peak = _timed(place, _PLANNED, [str(job)])
    record["plan"] = {"seconds": round(seconds, 2), "rows_per_second": round(rows / seconds), "peak_mib": peak}
    for name, command in {"run": run, "again": run, "verify": ["verify", output]}.items():
        seconds, peak = _timed(place, _COMMAND, command)
        record[name] = {"seconds": round(seconds, 2), "rows_per_second": round(rows / seconds), "peak_mib": peak}
    return record


def _timed(place: Path, program: str, command: Sequence[str]) -> tuple[float, int]:
    """Wall-clock seconds and peak MiB of a process of its own."""
    peak, began = place / "peak", time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + program, str(peak), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RetouchError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout[-500:]}")
    return seconds, int(peak.read_text()) // 1024


def _draw(place: Path) -> None:
    """Small pictures and their masks, from fixed seeds."""
    dice = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (place / kind).mkdir(parents=True, exist_ok=True)
    for number in range(IMAGES):
        colours = dice.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        pixels = colours.repeat(SIDE // 4, axis=0).repeat(SIDE // 4, axis=1)
        mask = np.zeros((SIDE, SIDE, 3), np.uint8)
        top, left = dice.integers(0, SIDE // 2, 2)
        mask[top : top + SIDE // 2, left : left + SIDE // 2] = 255
        (place / f"images/{number}.png").write_bytes(codec.encode(pixels, "png"))
        (place / f"masks/{number}.png").write_bytes(codec.encode(mask, "png"))


def _job(place: Path, rows: int, sink: str) -> Path:
    manifest, job = place / f"rows-{rows}.parquet", place / f"job-{rows}.yaml"
    schema = pa.schema([(name, pa.string()) for name in ("key", "image", "mask", "prompt")])
    with pq.ParquetWriter(manifest, schema, compression="zstd") as file:
        for start in range(0, rows, ROWS_A_GROUP):
            numbers = range(start, min(start + ROWS_A_GROUP, rows))
            columns = {
                "key": [f"row-{number:08d}" for number in numbers],
                "image": [f"images/{number % IMAGES}.png" for number in numbers],
                "mask": [f"masks/{number * 7 % IMAGES}.png" for number in numbers],
                "prompt": [f"prompt number {number}" for number in numbers],
            }
            file.write_table(pa.table(columns, schema=schema))
    fields = {
        "name": f"scale-{rows}",
        "manifest": str(manifest),
        "output": str(place / f"out-{rows}"),
        "editor": {"name": NULL, "weights": {}, "params": {"image_size": SIDE}},
        "metrics": [],
        "sink": sink,
        "ray": {"batch_size": 64, "actors": 1, "rows_per_block": ROWS_A_BLOCK},
    }
    job.write_text(yaml.safe_dump(fields))
    return job
