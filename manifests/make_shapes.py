"""Makes ``shapes.parquet``: 32 drawn scenes with masks and prompts, none of which the embedded models have seen.

Run ``python manifests/make_shapes.py`` again after every change of ``retouch.models.embedded.scenes``;
``tests/manifests_shipped/test_scripts.py`` fails otherwise. Every row is the editing task of a seed from ``HELD_OUT``
on, at the 32 pixels of the embedded networks, so that nothing is scaled. The prompts are all 24 pairs of shape and
colour and 8 of them again: each shape 8 times.
"""

from __future__ import annotations

import io
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from retouch.models.embedded.scenes import COLOURS, HELD_OUT, SHAPES, SIZE, EditTask, edit_task

HERE = Path(__file__).parent
ROWS = 32
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", FILE),
        ("mask", FILE),
        ("prompt", pa.string()),
        ("wanted_shape", pa.string()),
        ("wanted_colour", pa.string()),
        ("ground", pa.string()),
        ("texture", pa.string()),
        ("scene_seed", pa.int64()),
    ]
)


def make() -> pa.Table:
    """Return the manifest."""
    wanted = [pair(i) for i in range(ROWS)]
    found: dict[int, tuple[int, EditTask]] = {}
    for seed in count(HELD_OUT):
        task = edit_task(seed, SIZE)
        place = next((i for i, ask in enumerate(wanted) if i not in found and ask == (task.shape, task.colour)), None)
        if place is not None:
            found[place] = (seed, task)
        if len(found) == ROWS:
            break
    return pa.Table.from_pylist([row(i, *found[i]) for i in range(ROWS)], schema=SCHEMA)


def pair(i: int) -> tuple[str, str]:
    """Return row i's shape and colour, shifted by one colour every 12 rows (lcm of 4 and 6) to avoid early repeats."""
    return SHAPES[i % len(SHAPES)], list(COLOURS)[(i + i // 12) % len(COLOURS)]


def row(i: int, seed: int, task: EditTask) -> dict[str, Any]:
    """Return one row of the manifest."""
    key = f"shapes-{i:03d}"
    return {
        "key": key,
        "image": {"bytes": png(task.scene.image), "path": f"{key}.png"},
        "mask": {"bytes": png(task.mask.astype(np.uint8) * 255), "path": f"{key}-mask.png"},
        "prompt": task.prompt,
        "wanted_shape": task.shape,
        "wanted_colour": task.colour,
        "ground": task.scene.ground,
        "texture": task.scene.texture,
        "scene_seed": seed,
    }


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return [H, W, 3] or [H, W] pixels as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    pq.write_table(make(), HERE / "shapes.parquet")
