"""Small finished runs to export: real files, a real table, an editor without networks."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from retouch.execution.edit import run
from retouch.imaging import codec
from retouch.outputs import image_paths, results
from rich.console import Console

from tests.helpers.datasets import painter_job, write_dataset

# Keys as they come: with dots, where WebDataset's end, slashes, spaces, signs of other scripts, and too long.
KEYS = ["a.b.c", "ordner/ü 1", "__key__", "10%", "k" * 300, "last"]
PROMPTS = {0: "ein <roter> Kreis & 'mehr'", 1: "赤い円"}


def finished(
    folder: Path,
    rows: int = 6,
    prompts: dict[int, str] | None = None,
    image: list[bytes] | None = None,
    **changes: Any,
) -> str:
    """The output of a run over ``rows`` rows with ``KEYS``; prompts such as "raise" make rows fail.

    Images are files, or stand in the manifest where their bytes are given.
    """
    columns: dict[str, list[Any]] = {"key": KEYS[:rows], **({"image": list(image)} if image else {})}
    manifest = write_dataset(folder, rows, {**PROMPTS, **(prompts or {})}, **columns)
    job = painter_job(folder, manifest, max_failure_rate=1.0, **changes)
    run(job, executor="local", console=Console(file=io.StringIO()))
    return job.output


def edited(output: str) -> dict[str, np.ndarray]:
    """Key to the pixels of every image that the run has."""
    rows = results.read(output, ["key", "output"]).to_pylist()
    found = {row["key"]: row["output"] for row in rows if row["output"]}
    return {key: codec.decode_image(image_paths.read_image(output, address)).pixels for key, address in found.items()}


def pixels(image: Any) -> np.ndarray:
    """[H, W, 3] of what another library decoded."""
    return np.asarray(image.convert("RGB"))
