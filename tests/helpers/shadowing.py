"""A folder whose files have the names of libraries and of ours, and a plug-in that lies next to its job."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import numpy as np
import yaml
from retouch import read_edited, read_results

from tests.helpers.datasets import painter_job, write_dataset

NAMES = ("retouch", "pipeline", "yaml")
CAUGHT = "imported.txt"

SHADOW = """
import sys
open({file!r}, "a").write(f"{{__name__}} by {{sys.argv}}\\n")
raise ImportError(f"{{__file__}} was imported in place of a library")
"""
EDITOR = """
import numpy as np
from dataclasses import dataclass
from retouch.schema import EditResult


@dataclass(frozen=True)
class Params:
    grey: int = 50


class Grey:
    version, inputs, Params, rank_by, columns = "1", frozenset({"mask"}), Params, None, {}

    def __init__(self, params):
        self.params, self.image_size = params, 16

    @classmethod
    def load(cls, params, weights, device):
        return cls(params)

    def edit_batch(self, batch):
        grey = np.uint8(batch.params.get("grey", self.params.grey))
        images = [np.where(mask[..., None], grey, image) for image, mask in zip(batch.image, batch.mask)]
        return [EditResult(image, {}) for image in images]
"""


def greys(folder: Path, output: str) -> list[float]:
    """The median of what the plug-in painted into the mask of each image, in the order of the keys."""
    with chdir(folder):  # where the manifest's address begins
        edited = [read_edited(output, key) for key in sorted(read_results(output)["key"].to_pylist())]
    return [float(np.median(one.image[one.mask])) for one in edited]


def write_folder(folder: Path, output: str) -> None:
    """Write ``job.yaml``, its manifest, its plug-in and one module for each of NAMES, which must not be imported."""
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(folder, 2, params=['{"grey": 200}', None])
    editor = {"name": "my_editor:Grey", "weights": {}}
    job = painter_job(folder, "manifest.parquet", editor=editor, metrics=[], output=output, name="shadowed")
    (folder / "job.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    (folder / "my_editor.py").write_text(EDITOR)
    for name in NAMES:
        (folder / f"{name}.py").write_text(SHADOW.format(file=str(folder / CAUGHT)))
