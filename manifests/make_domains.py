"""Makes the manifests of the embedded domains: ``domains/NAME.parquet`` to train on, ``translate.parquet`` to edit.

Run ``python manifests/make_domains.py`` again after every change of ``retouch.models.embedded.scenes``. A domain's
scenes all have what it changes (a red shape, a white ground); the mask marks where the image may change. The scenes to
edit are red shapes on white, with one row per domain. Their seeds start at ``HELD_OUT``, which no training has seen.
"""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from embedded_models.domains import DOMAINS, LEARNED, Domain, in_all, only, scenes
from PIL import Image
from retouch.models.embedded.scenes import HELD_OUT, Scene

HERE = Path(__file__).parent
ROWS: Final = 72  # 64 to train on, 8 for the contact sheet
EDITED: Final = 8  # scenes of translate.parquet
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS: Final = [("key", pa.string()), ("image", FILE), ("source_prompt", pa.string()), ("prompt", pa.string())]


def to_train_on(name: str) -> pa.Table:
    """Return the manifest of a domain."""
    domain = DOMAINS[name]
    rows = [
        {
            **row(f"{name}-{i:03d}", scene, domain),
            "mask": {"bytes": png(domain.may_change(only(scene)).astype(np.uint8) * 255), "path": f"{name}-mask.png"},
        }
        for i, (_, scene) in enumerate(islice(scenes(LEARNED, domain.holds), ROWS))
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([*COLUMNS, ("mask", FILE)]))


def to_edit() -> pa.Table:
    """Return the manifest of scenes that are in all three source domains, with a row per target."""
    rows = []
    for i, (_, scene) in enumerate(islice(scenes(HELD_OUT, in_all), EDITED)):
        for name, domain in DOMAINS.items():
            rows.append({**row(f"scene-{i}-{name}", scene, domain), "checkpoint": name})
    return pa.Table.from_pylist(rows, schema=pa.schema([*COLUMNS, ("checkpoint", pa.string())]))


def row(key: str, scene: Scene, domain: Domain) -> dict[str, Any]:
    """Return the columns of a scene that both manifests have."""
    return {
        "key": key,
        "image": {"bytes": png(scene.image), "path": f"{key}.png"},
        "source_prompt": domain.source(scene),
        "prompt": domain.target(scene),
    }


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return [H, W, 3] or [H, W] pixels as a PNG file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    for one in DOMAINS:
        pq.write_table(to_train_on(one), HERE / "domains" / f"{one}.parquet")
    pq.write_table(to_edit(), HERE / "translate.parquet")
