"""A small training for tests: tiny networks, drawn images with boxes, a job that names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from retouch.jobs.config import TrainJob, parse_job
from retouch.models.embedded.scenes import draw_scene
from retouch.models.paint_by_example import save_networks

from tests.helpers.datasets import png
from tests.helpers.tiny_paint_by_example import tiny

SIDE = 16  # of the drawn images, and of the tiny networks


def write_networks(folder: Path) -> str:
    """Tiny networks as a family."""
    family = save_networks(tiny(), folder)
    (folder / "family.json").write_text(json.dumps(family))
    return str(folder)


def scene_rows(count: int) -> list[tuple[np.ndarray, list[list[float]]]]:
    """Drawings of one shape, each with its box."""
    scenes = [draw_scene(seed, SIDE, 1) for seed in range(count)]
    return [(scene.image, [list(map(float, item.box)) for item in scene.objects]) for scene in scenes]


def write_rows(folder: Path, count: int) -> Path:
    """Image files and a manifest of them; paths in it are relative."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    rows = scene_rows(count)
    for number, (image, _) in enumerate(rows):
        (files / f"{number}.png").write_bytes(png(image))
    table = pa.table(
        {
            "key": [f"row-{number:03d}" for number in range(count)],
            "image": [f"files/{number}.png" for number in range(count)],
            "boxes": pa.array([boxes for _, boxes in rows], pa.list_(pa.list_(pa.float64()))),
        }
    )
    path = folder / "boxes.parquet"
    pq.write_table(table, path)
    return path


def train_job(folder: Path, **changes: Any) -> TrainJob:
    """A job of a few updates on 12 rows; ``params`` and ``ray`` are merged with its own."""
    manifest = folder / "boxes.parquet"
    if not manifest.exists():
        write_rows(folder, 12)
    networks = folder / "start"
    if not networks.exists():
        write_networks(networks)
    params = {"steps": 4, "batch": 2, "learning_rate": 1e-3, "warmup": 2, "save_every": 2, "jitter": 1}
    data: dict[str, Any] = {
        "kind": "train",
        "name": "tiny",
        "manifest": str(manifest),
        "output": str(folder / "out"),
        "seed": 3,
        "weights": str(networks),
        **changes,
        "params": {**params, "reference_pad": 1, **changes.get("params", {})},
        "ray": changes.get("ray", {}),
    }
    job = parse_job(data, "test")
    assert isinstance(job, TrainJob)
    return job


def losses(output: Path | str) -> list[float]:
    """The curve."""
    found: list[float] = pq.read_table(Path(output) / "losses.parquet")["loss"].to_pylist()
    return found
