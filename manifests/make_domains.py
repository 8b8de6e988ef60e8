"""Makes the manifests of the embedded domains: ``domains/NAME.parquet`` to learn from, ``translate.parquet`` to edit.

Knows neither editors nor networks. Run it again after every change of ``pipeline/embedded/scenes.py``
(``python manifests/make_domains.py``). A domain's scenes all have what it changes (a red shape, a white ground); the
mask marks where the picture may change. The scenes to edit are red shapes on white, and are asked for each domain:
three targets of one image. They are drawn from ``HELD_OUT`` on, which no training has seen.
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
ROWS: Final = 72  # 64 to learn from, 8 for the contact sheet
EDITED: Final = 8  # scenes of translate.parquet
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS: Final = [("key", pa.string()), ("image", FILE), ("source_prompt", pa.string()), ("prompt", pa.string())]


def to_learn(name: str) -> pa.Table:
    """The manifest of a domain."""
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
    """Scenes of all three source domains, a row a target."""
    rows = []
    for i, (_, scene) in enumerate(islice(scenes(HELD_OUT, in_all), EDITED)):
        for name, domain in DOMAINS.items():
            rows.append({**row(f"scene-{i}-{name}", scene, domain), "checkpoint": name})
    return pa.Table.from_pylist(rows, schema=pa.schema([*COLUMNS, ("checkpoint", pa.string())]))


def row(key: str, scene: Scene, domain: Domain) -> dict[str, Any]:
    """What both manifests say of a scene."""
    return {
        "key": key,
        "image": {"bytes": png(scene.image), "path": f"{key}.png"},
        "source_prompt": domain.source(scene),
        "prompt": domain.target(scene),
    }


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """PNG file of [H, W, 3] or [H, W] pixels."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    for one in DOMAINS:
        pq.write_table(to_learn(one), HERE / "domains" / f"{one}.parquet")
    pq.write_table(to_edit(), HERE / "translate.parquet")
