"""Whole-image edits at the network's own size, and everything that reads them back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from retouch.api import load_editor
from retouch.errors import ConfigError
from retouch.execution.edit import run
from retouch.execution.evaluate import evaluate
from retouch.execution.rerun import rerun
from retouch.jobs.config import EvaluateJob, parse_job
from retouch.outputs import results
from retouch.outputs.edited import read_edited
from retouch.outputs.export.dataset import ExportRequest, export_dataset
from retouch.outputs.verify import verify_output
from rich.console import Console

from tests.helpers.datasets import painter_job, picture, square, write_dataset

MASKED, WHOLE, CLEAR = "row-000", "row-001", "row-002"


def quiet() -> Console:
    return Console(file=io.StringIO())


def write_mixed(folder: Path) -> Path:
    """Write three rows of 20x24 pixels: with a mask, whole, and whole with an alpha channel."""
    manifest = write_dataset(folder, 3, mask=["files/mask.png", None, None])
    Image.fromarray(np.dstack([picture(2), square()])).save(folder / "files" / "2.png")
    return manifest


@pytest.fixture
def output(tmp_path: Path) -> str:
    job = painter_job(tmp_path, write_mixed(tmp_path), output_size="network", metrics=[])
    run(job, executor="local", console=quiet())
    return job.output


def read_images(output: str) -> dict[str, tuple[Image.Image, dict[str, Any]]]:
    rows = results.read(output).to_pylist()
    return {row["key"]: (Image.open(io.BytesIO((Path(output) / row["output"]).read_bytes())), row) for row in rows}


def test_whole_edits_have_the_networks_size_and_masked_rows_the_sources(output: str) -> None:
    images = read_images(output)
    assert {key: (image.size, image.mode) for key, (image, _) in images.items()} == {
        MASKED: ((24, 20), "RGB"),
        WHOLE: ((16, 16), "RGB"),
        CLEAR: ((16, 16), "RGBA"),
    }
    for image, row in images.values():
        assert (row["width"], row["height"]) == image.size
        assert row["background_changed_px"] == 0
    masked = np.asarray(images[MASKED][0])
    assert np.array_equal(masked[square() == 0], picture(0)[square() == 0])
    seed = images[WHOLE][1]["seed"]
    assert (np.asarray(images[WHOLE][0]) == [seed & 255, seed >> 8 & 255, seed >> 16 & 255]).all()
    assert (np.asarray(images[CLEAR][0])[..., 3] == 255).all()


def test_they_are_verified_run_again_exported_and_measured(output: str, tmp_path: Path) -> None:
    assert verify_output(output).ok
    assert [rerun(output, key).verdict for key in (MASKED, WHOLE, CLEAR)] == ["identical"] * 3
    assert read_edited(output, WHOLE).image.shape == (16, 16, 3)
    assert "the source is now" not in (Path(output) / "report.html").read_text()
    done = export_dataset(ExportRequest(output, str(tmp_path / "set"), format="parquet", layout="pairs"))
    assert done.rows == 3
    for row in pq.read_table(tmp_path / "set" / "data").to_pylist():
        sizes = {Image.open(io.BytesIO(row[name]["bytes"])).size for name in ("original_image", "mask_image")}
        assert sizes == {Image.open(io.BytesIO(row["edited_image"]["bytes"])).size}
    data = {"kind": "evaluate", "name": "e", "results": output, "output": str(tmp_path / "eval")}
    job = parse_job({**data, "row_metrics": ["source_l1"]}, "test")
    assert isinstance(job, EvaluateJob)
    evaluate(job, executor="local", console=quiet())
    assert pq.read_table(tmp_path / "eval" / "rows.parquet")["error"].to_pylist() == [None] * 3


def test_from_python_the_pixels_are_a_runs(output: str) -> None:
    editor = load_editor("tests.helpers.painters:Painter", output_size="network", device="cpu")
    image, row = read_images(output)[WHOLE]
    edited = editor(picture(1), prompt="a red circle", key=WHOLE)
    assert edited.seed == row["seed"]
    assert np.array_equal(edited.image, np.asarray(image))


@pytest.mark.parametrize("more", [{"fit": "face"}, {"canvas": {"left": 0.5}}])
def test_a_job_that_edits_no_image_whole_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="output_size: network is for whole images"):
        painter_job(tmp_path, "m.parquet", output_size="network", **more)
