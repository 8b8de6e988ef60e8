"""Time how a run's own work grows with its rows: small images and an editor that returns them unchanged.

``python -m tests.benchmarks.scale --rows 10000 --rows 100000`` prints a JSON object per size. Every figure is of a
separate process, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
import yaml
from retouch.cli.bench.editors import SIMULATED
from retouch.errors import RetouchError
from retouch.imaging import codec

IMAGES: Final = 1000  # different image files, used by the rows in turn
SIDE: Final = 32  # pixels
ROWS_PER_BLOCK: Final = 1000  # auto would choose small blocks: it assumes that edits take time
ROWS_PER_GROUP: Final = 50_000  # Parquet row groups of the manifest
# Writes its own peak: what the system reports of a child includes its parent's memory at the fork.
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
    """Yield a record per size: seconds, rows per second and peak MiB of plan, run, the same run again, and verify.

    Args:
        rows: sizes of manifests.
        executor: ``ray`` or ``local``.
        sink: sink of the edited images.
        folder: working folder, which is kept; None: a temporary one.

    Raises:
        RetouchError: a command failed; with the end of its output.
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
    """Return the wall-clock seconds and peak MiB of a program in a new process."""
    peak, began = place / "peak", time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + program, str(peak), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RetouchError(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stdout[-500:]}")
    return seconds, int(peak.read_text()) // 1024


def _draw(place: Path) -> None:
    """Write small pictures and their masks, from fixed seeds."""
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
        for start in range(0, rows, ROWS_PER_GROUP):
            numbers = range(start, min(start + ROWS_PER_GROUP, rows))
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
        "editor": {"name": SIMULATED, "weights": {}, "params": {"seconds": 0.0, "image_size": SIDE}},
        "metrics": [],
        "sink": sink,
        "ray": {"batch_size": 64, "actors": 1, "rows_per_block": ROWS_PER_BLOCK},
    }
    job.write_text(yaml.safe_dump(fields))
    return job


def main(
    rows: Annotated[list[int] | None, typer.Option("--rows", min=100, help="Rows of a manifest. Repeatable.")] = None,
    executor: Annotated[str, typer.Option(help="ray, or local (in this process).")] = "ray",
    sink: Annotated[str, typer.Option(help="files or tar.")] = "tar",
    folder: Annotated[str | None, typer.Option(help="Working folder. Default: a temporary one.")] = None,
) -> None:
    """Print rows per second, peak memory, and the seconds to plan, resume and verify, for manifests of each size."""
    for record in measure(rows or [10_000, 100_000], executor=executor, sink=sink, folder=folder):
        typer.echo(json.dumps(record))


if __name__ == "__main__":
    typer.run(main)
