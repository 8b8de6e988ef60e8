"""Small datasets for tests: image files, their manifest and a job for them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from retouch.jobs.config import EditJob, parse_job


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def picture(number: int, height: int = 20, width: int = 24) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def square(height: int = 20, width: int = 24) -> np.ndarray:
    """Return a mask image, white in 4..12 x 6..16."""
    mask = np.zeros((height, width), np.uint8)
    mask[4:12, 6:16] = 255
    return mask


def write_dataset(folder: Path, rows: int, prompts: dict[int, str] | None = None, **columns: list[Any]) -> Path:
    """Write images, a mask and their manifest, with a caller's column ``label``; return the manifest's path."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    for number in range(rows):
        (files / f"{number}.png").write_bytes(png(picture(number)))
    (files / "mask.png").write_bytes(png(square()))
    table = pa.table(
        {
            "key": [f"row-{number:03d}" for number in range(rows)],
            "image": [f"files/{number}.png" for number in range(rows)],
            "mask": ["files/mask.png"] * rows,
            "prompt": [(prompts or {}).get(number, "a red circle") for number in range(rows)],
            "label": pa.array(range(rows), pa.int16()),
            **columns,
        }
    )
    path = folder / "manifest.parquet"
    pq.write_table(table, path)
    return path


def painter_job(folder: Path, manifest: Path | str, **changes: Any) -> EditJob:
    """Return a job for ``tests.helpers.painters``: everything is real but the networks."""
    data: dict[str, Any] = {
        "name": "painted",
        "manifest": str(manifest),
        "output": str(folder / "out"),
        "editor": {"name": "tests.helpers.painters:Painter", "weights": {}},
        "metrics": [{"name": "tests.helpers.painters:Redness"}],
        "max_failure_rate": 0.0,
        "ray": {"batch_size": 4, "rows_per_block": 3},
    }
    return parse_job({**data, **changes}, "test")
