"""Makes ``boxes.parquet``: drawn scenes with the boxes of their shapes, to train exemplar networks on.

Run ``python manifests/make_boxes.py`` again after every change of ``retouch.models.embedded.scenes``. As in OpenImages,
a row is an image with a list of boxes. Scenes are drawn at twice the networks' side, so that cropped shapes are sharp,
from seeds that no test uses.
"""

from __future__ import annotations

import io
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from retouch.models.embedded.scenes import SIZE, draw_scene

HERE = Path(__file__).parent
ROWS: Final = 64
FIRST: Final = 3_000_000  # a training seed
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema([("key", pa.string()), ("image", FILE), ("boxes", pa.list_(pa.list_(pa.float32())))])


def make() -> pa.Table:
    """Return the manifest; boxes are x0, y0, x1, y1 in 0..1."""
    scenes = ((seed, draw_scene(seed, 2 * SIZE)) for seed in count(FIRST))
    rows = [row(seed, scene) for seed, scene in islice(((s, d) for s, d in scenes if d.objects), ROWS)]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def row(seed: int, scene: Any) -> dict[str, Any]:
    """Return the row of one scene."""
    out = io.BytesIO()
    Image.fromarray(scene.image).save(out, "PNG", optimize=True)
    boxes = [[edge / (2 * SIZE) for edge in item.box] for item in scene.objects]
    return {"key": f"scene-{seed}", "image": {"bytes": out.getvalue(), "path": f"{seed}.png"}, "boxes": boxes}


if __name__ == "__main__":
    pq.write_table(make(), HERE / "boxes.parquet")
