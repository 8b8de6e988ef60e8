"""A run's figures are on the node's agent while the cluster is there, and in the output afterwards."""

from __future__ import annotations

import io
import json
import os
import re
import time
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import storage
from pipeline.executors.ray_metrics import Board
from pipeline.run import run
from tests.datasets import painter_job, write_dataset

pytestmark = pytest.mark.ray

NAMES = {
    "ray_retouch_rows_total",
    "ray_retouch_stage_seconds_total",
    "ray_retouch_retries_total",
    "ray_retouch_gpu_busy_ratio",
    "ray_retouch_batch_fill_ratio",
}


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


def test_a_runs_figures_are_exported_under_these_names_and_kept_in_its_output(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path, 5, {1: "crash", 2: "raise"})
    job = painter_job(
        tmp_path, manifest, name="counted", max_failure_rate=1.0, ray={"batch_size": 4, "rows_per_block": 3}
    )
    summary = run(job, console=Console(file=io.StringIO()))
    assert summary.statuses["success"] == 3
    deadline = time.monotonic() + 60
    found: dict[str, str] = {}
    while set(found) < NAMES:
        assert time.monotonic() < deadline, f"not exported in time: {NAMES - set(found)}"
        time.sleep(1)
        found = {line.partition("{")[0]: line for line in scraped() if 'job="counted"' in line}
    lines = [line for line in scraped() if 'job="counted"' in line]
    assert {re.search(r'status="(\w+)"', line)[1] for line in lines if "_rows_total" in line} == {  # type: ignore[index]
        "success",
        "failed_to_edit",
    }
    assert {re.search(r'stage="(\w+)"', line)[1] for line in lines if "_stage_" in line} == {  # type: ignore[index]
        *("decode", "edit", "write")
    }
    assert any('reason="lost worker"' in line for line in lines)
    kept = json.loads(storage.read_bytes(storage.join(job.output, "summary.json")))["figures"]
    assert kept["rows"] == {"success": 3, "failed_to_edit": 2}
    assert kept["retries"]["lost worker"] >= 1
    assert set(kept["stage_seconds"]) == {"decode", "edit", "write"}
    assert 0 < kept["gpu_busy_ratio"] <= 1
    assert 0 < kept["batch_fill_ratio"] <= 1
    events = storage.read_bytes(storage.join(job.output, "events.jsonl")).decode().splitlines()
    assert json.loads(events[-1])["figures"] == kept


def test_a_board_keeps_each_processs_latest_totals() -> None:
    board = Board()
    board.post("one", {"rows.success": 1})
    board.post("one", {"rows.success": 3, "passes": 2})
    board.post("two", {"rows.success": 4})
    assert board.sums() == {"rows.success": 7, "passes": 2}
