"""Makes ``exemplars.parquet``: 32 drawn scenes with masks, each with the drawing of an object to paint into it.

Run ``python manifests/make_exemplars.py`` again after every change of ``embedded_models.exemplars``. Every row is the
exemplar task of a seed from ``HELD_OUT`` on, at the 32 pixels of the embedded networks. ``prompt`` describes the
exemplar; the judge reads it, exemplar editors do not.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from embedded_models.exemplars import ExemplarTask, exemplar_task
from PIL import Image
from retouch.models.embedded.scenes import HELD_OUT, SIZE

HERE = Path(__file__).parent
ROWS = 32
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("key", pa.string()), ("image", FILE), ("mask", FILE), ("exemplar", FILE), ("prompt", pa.string())])


def make() -> pa.Table:
    """Return the manifest."""
    return pa.Table.from_pylist([row(i, exemplar_task(HELD_OUT + i, SIZE)) for i in range(ROWS)], schema=SCHEMA)


def row(i: int, task: ExemplarTask) -> dict[str, Any]:
    """Return one row of the manifest."""
    key = f"exemplar-{i:03d}"
    return {
        "key": key,
        "image": {"bytes": png(task.scene.image), "path": f"{key}.png"},
        "mask": {"bytes": png(task.mask.astype(np.uint8) * 255), "path": f"{key}-mask.png"},
        "exemplar": {"bytes": png(task.exemplar), "path": f"{key}-exemplar.png"},
        "prompt": task.prompt,
    }


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return [H, W, 3] or [H, W] pixels as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    pq.write_table(make(), HERE / "exemplars.parquet")
