"""A run's telemetry is exported by the nodes' agents while it runs, and is in the output afterwards."""

from __future__ import annotations

import io
import json
import os
import re
import time
import urllib.request
from pathlib import Path

import pytest
from retouch import storage
from retouch.execution.edit import run
from retouch.execution.executors.ray.metrics import TotalsActor
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset

pytestmark = pytest.mark.ray


def scraped() -> list[str]:
    """What the agents of all nodes export of ours, a line a sample."""
    import ray

    ray.init(address=os.environ["RAY_ADDRESS"], ignore_reinit_error=True, logging_level="ERROR", log_to_driver=False)
    lines: list[str] = []
    for node in ray.nodes():
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(address, timeout=10) as page:
            lines += page.read().decode().splitlines()
    return [line for line in lines if line.startswith("ray_retouch_")]


# Samples that a run with these rows leads to, by name and the label that tells them apart.
SAMPLES = {
    ("ray_retouch_rows_total", "success"),
    ("ray_retouch_rows_total", "failed_to_edit"),
    ("ray_retouch_stage_seconds_total", "decode"),
    ("ray_retouch_stage_seconds_total", "edit"),
    ("ray_retouch_stage_seconds_total", "write"),
    ("ray_retouch_retries_total", "out of memory"),
    ("ray_retouch_gpu_busy_ratio", None),
    ("ray_retouch_batch_fill_ratio", None),
}


def samples() -> set[tuple[str, str | None]]:
    """Name and telling label of what is exported of the run."""
    lines = [line for line in scraped() if 'job="counted"' in line]
    labels = [re.search(r'(?:status|stage|reason)="([^"]+)"', line) for line in lines]
    return {(line.partition("{")[0], label and label[1]) for line, label in zip(lines, labels, strict=True)}


def test_a_runs_figures_are_exported_under_these_names_and_kept_in_its_output(tmp_path: Path) -> None:
    editor = {"name": "tests.helpers.painters:Painter", "weights": {}, "params": {"most": 2}}
    ray = {"batch_size": 4, "rows_per_block": 3}
    manifest = write_dataset(tmp_path, 5, {2: "raise"})
    job = painter_job(tmp_path, manifest, name="counted", editor=editor, max_failure_rate=1.0, ray=ray)
    run(job, console=Console(file=io.StringIO()))
    deadline = time.monotonic() + 60
    while not samples() >= SAMPLES:  # a process exports every ten seconds
        assert time.monotonic() < deadline, f"not exported in time: {SAMPLES - samples()}"
        time.sleep(1)
    kept = json.loads(storage.read_bytes(storage.join(job.output, "summary.json")))["figures"]
    assert kept["rows"] == {"success": 4, "failed_to_edit": 1}
    assert kept["retries"]["out of memory"] >= 1
    assert set(kept["stage_seconds"]) == {"decode", "edit", "write"}
    assert 0 < kept["gpu_busy_ratio"] <= 1
    assert 0 < kept["batch_fill_ratio"] <= 1
    events = storage.read_bytes(storage.join(job.output, "events.jsonl")).decode().splitlines()
    assert json.loads(events[-1])["figures"] == kept


def test_the_actor_keeps_each_processs_latest_totals() -> None:
    actor = TotalsActor()
    actor.put("one", {"rows.success": 1})
    actor.put("one", {"rows.success": 3, "passes": 2})
    actor.put("two", {"rows.success": 4})
    assert actor.sums() == {"rows.success": 7, "passes": 2}
