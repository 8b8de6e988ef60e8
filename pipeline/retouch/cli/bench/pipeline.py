"""The overhead of Ray and the pipeline: time the same rows through the bare engine, a run, and a plain script.

A bare engine is a process that has loaded what an actor loads and edits decoded rows, block by block; for N actors
there are N such processes. Rates are measured from the first edit on; start-up is recorded separately.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retouch import telemetry
from retouch.cli.bench.editors import SIMULATED
from retouch.errors import ConfigError, RetouchError
from retouch.execution.engine import Engine
from retouch.execution.outcomes import unpack_rows
from retouch.execution.plan import Plan, make_plan
from retouch.execution.specs import EngineSpec
from retouch.execution.stages import decode_block
from retouch.execution.tracing import WORKER, RunObserver
from retouch.jobs.config import EditJob, load_job
from retouch.manifests import reader
from retouch.manifests.decode import DecodeSpec
from retouch.models import devices

TRIED: Final = 3  # passes for the estimate of how many rows fill the time; the first is a warm-up
PASSES: Final = 40  # per actor with the simulated editor
STARTED: Final = 1800  # seconds to wait until all simulated actors have started, before the first gets rows

_barrier: Any = None  # where the bare engines of a pool wait for each other; one per process


@dataclass(frozen=True)
class EngineTask:
    """The work of one bare engine."""

    engine: EngineSpec
    decode: DecodeSpec
    blocks: tuple[pa.Table, ...]


def measure(job: str, *, minutes: float, actors: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield for each number of actors a record of the bare engine, of a run through Ray, and of the plain script.

    ``efficiency`` is the rate relative to the bare engine's. ``busy`` is the fraction of the actors' time, from first
    edit to last result, that was spent in passes; it hardly depends on other load of the machine.

    Args:
        job: job file that gives editor, metrics and rows; the rows are repeated under new keys.
        minutes: minimum minutes of work for the bare engines.
        actors: numbers of actors, one CPU each.

    Raises:
        ConfigError: the job is not an edit job.
        RetouchError: a run failed; with the end of its output.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder)
        row_seconds = _seconds_per_row(job, place)
        for count in actors:
            rows = max(1, round(minutes * 60 / row_seconds)) * count
            plan = _plan(job, place, rows, [f"ray.actors={count}"])
            bare = _bare(plan, count)
            yield {"what": "engine", "actors": count, **bare}
            run = _run(job, place, count)
            busy = round(run["pass_seconds"] / (run["seconds"] * count), 3)
            yield {"what": "ray", "actors": count, **_against(bare, run), "busy": busy}
            yield {"what": "plain script", "actors": count, **_against(bare, _plain(plan, place, count))}


def simulate(
    job: str, *, actors: Sequence[int], latency: float, passes: int = PASSES, declared: bool = True
) -> Iterator[dict[str, Any]]:
    """Yield for each number of actors a record of a run whose editor waits ``latency`` seconds per pass.

    Rates are measured while all actors edit. ``of_linear`` is relative to one bare engine's rate times the number of
    actors.

    Args:
        job: job file that gives rows and batch size.
        actors: numbers of actors.
        latency: seconds per pass.
        passes: per actor.
        declared: start a cluster that declares one GPU per actor; else use CPUs of the cluster at ``RAY_ADDRESS``.

    Raises:
        ConfigError: the job is not an edit job.
    """
    editor = {"name": SIMULATED, "weights": {}, "params": {"seconds": latency}}
    # Without it the first actors finish before the last ones have started: 64 take minutes on two cores.
    os.environ.setdefault("RAY_DATA_DEFAULT_WAIT_FOR_MIN_ACTORS_S", str(STARTED))
    set_ = [f"editor={json.dumps(editor)}", "metrics=[]"]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        place = Path(folder)
        one = _bare(_plan(job, place, _rows_per_pass(_job(job)) * passes, [*set_, "ray.actors=1"]), 1)
        for count in actors:
            more = [f"ray.actors={count}", f"ray.gpus_per_actor={int(declared)}"]
            plan = _plan(job, place, _rows_per_pass(_job(job)) * passes * count, [*set_, *more])
            ran = _simulated(plan, count, declared=declared)
            share = ran["rows_per_second"] / (one["rows_per_second"] * count)
            yield {"what": "simulated", "actors": count, "latency": latency, "of_linear": round(share, 3), **ran}


def _job(file: str, set_: Sequence[str] = ()) -> EditJob:
    job = load_job(file, set_)
    if not isinstance(job, EditJob):
        raise ConfigError(f"{file} is of kind {job.kind}; give a job of kind edit")
    return job


def _rows_per_pass(job: EditJob) -> int:
    return max(1, job.ray.batch_size // job.candidates)


def _plan(file: str, place: Path, rows: int, set_: Sequence[str]) -> Plan:
    """Return a plan for the job's rows, repeated under new keys, with a new output."""
    table = reader.read(_job(file).manifests).table
    times = -(-rows // table.num_rows)
    keys = pa.concat_arrays(
        [pc.binary_join_element_wise(key, str(n), "-") for n in range(times) for key in table["key"].chunks]
    )
    many = pa.concat_tables([table] * times).drop_columns(["key"]).append_column("key", keys).slice(0, rows)
    pq.write_table(many, place / "rows.parquet")
    output = place / f"run-{time.monotonic_ns()}"
    return make_plan(_job(file, [*set_, f"manifest={place / 'rows.parquet'}", f"output={output}"]))


def _seconds_per_row(file: str, place: Path) -> float:
    """Return the seconds per row of one bare engine after a warm-up."""
    job = _job(file)
    pass_rows = _rows_per_pass(job)
    plan = _plan(file, place, pass_rows, ["ray.rows_per_block=auto", "ray.actors=1"])
    block = next(plan.blocks(1))
    tasks = [EngineTask(replace(plan.engine, output=None), replace(plan.decode, output=None), (block,) * TRIED)]
    began, ended = _in_processes(_timed, tasks)[0]
    return float(ended[-1] - began[1]) / (pass_rows * (TRIED - 1))


def _bare(plan: Plan, count: int) -> dict[str, Any]:
    """Return the rate of ``count`` engines, each in a separate process."""
    blocks = list(plan.blocks(count))
    engine, decode = replace(plan.engine, output=None), replace(plan.decode, output=None)
    tasks = [EngineTask(engine, decode, tuple(blocks[number::count])) for number in range(count)]
    spans = _in_processes(_timed, tasks)
    seconds = max(ended[-1] for _, ended in spans) - min(began[0] for began, _ in spans)
    return _rate(plan.left, seconds)


def _rate(rows: int, seconds: float) -> dict[str, Any]:
    return {"rows": rows, "seconds": round(seconds, 2), "rows_per_second": round(rows / seconds, 3)}


def _against(bare: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {"efficiency": round(other["rows_per_second"] / bare["rows_per_second"], 3), **other}


def _in_processes(work: Any, tasks: Sequence[EngineTask]) -> list[Any]:
    """Return the result of ``work`` for each task, each in a separate process; all start when all have loaded."""
    context = get_context("spawn")
    barrier = context.Barrier(len(tasks))
    with ProcessPoolExecutor(len(tasks), context, initializer=_set_barrier, initargs=(barrier,)) as processes:
        return list(processes.map(work, tasks))


def _set_barrier(barrier: threading.Barrier) -> None:
    global _barrier
    _barrier = barrier


def _timed(task: EngineTask) -> tuple[list[float], list[float]]:
    """Return when each block began and ended in this process."""
    engine = Engine(task.engine, devices.best_device())
    decoded = [unpack_rows(decode_block(block, task.decode)) for block in task.blocks]
    began, ended = [], []
    _barrier.wait()
    for samples in decoded:
        began.append(time.time())
        engine.edit(samples)
        ended.append(time.time())
    return began, ended


def _run(file: str, place: Path, count: int) -> dict[str, Any]:
    """Run the same rows with the ``retouch`` command in a new process."""
    output = place / f"run-{time.monotonic_ns()}"
    fields = (f"manifest={place / 'rows.parquet'}", f"output={output}", f"ray.actors={count}")
    command = [sys.executable, "-P", "-m", "retouch", "run", file]
    command += [part for field in fields for part in ("--set", field)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RetouchError(f"retouch run ended with exit code {done.returncode}: {done.stdout[-500:]}")
    return _recorded(json.loads((output / "summary.json").read_text()))


def _recorded(summary: dict[str, Any]) -> dict[str, Any]:
    timing, done = dict(summary["timing"]), summary["figures"]
    rate = _rate(summary["answered_now"], timing.pop("edit"))
    return {**rate, "pass_seconds": done["pass_seconds"], "stage_seconds": done["stage_seconds"], "start": timing}


def _plain(plan: Plan, place: Path, count: int) -> dict[str, Any]:
    from retouch.cli.bench import plain_ray

    rows = place / "fingerprinted.parquet"
    pq.write_table(plan.todo, rows)
    engine, decode = replace(plan.engine, output=None), replace(plan.decode, output=None)
    output, block = str(place / f"plain-{time.monotonic_ns()}"), plan.rows_per_block(count)
    return _rate(*plain_ray.edit_rows(str(rows), output, engine, decode, actors=count, rows_per_block=block))


def _simulated(plan: Plan, count: int, *, declared: bool) -> dict[str, Any]:
    """Run the executor in this process. Return the rate while all actors edit, and the seconds until they all do."""
    from retouch.execution.edit import executor_function
    from retouch.execution.executors.ray.cluster import cluster

    summed: dict[str, float] = {}
    blocks: list[_Block] = []
    asked = time.time()
    with cluster(None, None if declared else count, 1.0, gpus=count if declared else None):
        execute = executor_function("ray", os.environ.get("RAY_ADDRESS", "auto"))
        for rows in execute(plan, RunObserver(totals=summed)):
            worker = rows[WORKER][0].as_py()
            blocks.append(_Block((worker["host"], worker["pid"]), rows.num_rows, worker["began"], time.time()))
    rows_done, seconds = _while_all_edit(blocks)
    done = telemetry.as_record(summed)
    return {
        **_rate(
            sum(block.rows for block in blocks),
            max(block.ended for block in blocks) - min(block.began for block in blocks),
        ),
        "rows_per_second": round(rows_done / seconds, 3),
        "window": round(seconds, 2),
        **{name: done[name] for name in ("pass_seconds", "stage_seconds")},
        "start": {"all_edit": round(max(block.began for block in _firsts(blocks)) - asked, 2)},
    }


@dataclass(frozen=True)
class _Block:
    """A finished block: when its actor began it, and when this process received it."""

    actor: tuple[str, int]
    rows: int
    began: float
    ended: float


def _firsts(blocks: Sequence[_Block]) -> list[_Block]:
    """Return the first block of each actor."""
    found: dict[tuple[str, int], _Block] = {}
    for block in sorted(blocks, key=lambda block: block.began):
        found.setdefault(block.actor, block)
    return list(found.values())


def _while_all_edit(blocks: Sequence[_Block]) -> tuple[float, float]:
    """Return rows and seconds from the last actor's first edit to the first actor's last block.

    A block counts by the fraction of its time within that window.
    """
    lasts = {block.actor: block.ended for block in sorted(blocks, key=lambda block: block.ended)}
    begin, end = max(block.began for block in _firsts(blocks)), min(lasts.values())
    if end <= begin:
        raise RetouchError("the first actor finished before the last one began; give more passes")
    inside = ((block, min(block.ended, end) - max(block.began, begin)) for block in blocks)
    return sum(block.rows * max(span, 0.0) / (block.ended - block.began) for block, span in inside), end - begin
