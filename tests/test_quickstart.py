"""The shipped job on the shipped models: the same files whatever carries it out, on disk and on S3.

Fewer steps than the job has, so that the suite stays short; the job itself is run whole by ``test_readme``.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from retouch import storage
from retouch.execution.edit import run
from retouch.imaging import codec
from retouch.jobs.config import EditJob, load_job
from retouch.outputs import image_paths, results
from retouch.outputs.verify import verify_output
from rich.console import Console

SHORT = ["editor.params.timesteps=5", "editor.params.skip_timesteps=1", "editor.params.aug_num=2", "candidates=2"]
ROWS = 6


def short_job(output: str, manifest: str, **ray: Any) -> EditJob:
    spread = [f"ray.{name}={value}" for name, value in ray.items()]
    return load_job("jobs/quickstart.yaml", [*SHORT, f"output={output}", f"manifest={manifest}", *spread])


def answers(job: EditJob, **options: Any) -> dict[str, str]:
    summary = run(job, console=Console(file=io.StringIO()), **options)
    assert summary.exit_code == 0, summary
    proof = verify_output(job.output)
    assert proof.ok, proof.text()
    table = results.read(job.output, ["key", "sha256"])
    return dict(zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    return pq.read_table("manifests/shapes.parquet").slice(0, ROWS)


@pytest.fixture(scope="module")
def in_one_process(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """sha256 by key of the reference run."""
    folder = tmp_path_factory.mktemp("reference")
    pq.write_table(rows, folder / "rows.parquet")
    return answers(short_job(str(folder / "out"), str(folder / "rows.parquet")), executor="local")


@pytest.mark.ray
@pytest.mark.slow
def test_ray_with_a_shuffled_manifest_gives_the_files_of_one_process(
    rows: pa.Table, in_one_process: dict[str, str], tmp_path: Path
) -> None:
    shuffled = rows.take(np.random.default_rng(2).permutation(ROWS))
    pq.write_table(shuffled, tmp_path / "rows.parquet")
    job = short_job(str(tmp_path / "out"), str(tmp_path / "rows.parquet"), actors=2, rows_per_block=2)
    assert answers(job) == in_one_process


@pytest.mark.slow
def test_a_row_alone_gives_the_file_that_it_gives_among_others(
    rows: pa.Table, in_one_process: dict[str, str], tmp_path: Path
) -> None:
    pq.write_table(rows.slice(3, 1), tmp_path / "row.parquet")
    alone = answers(short_job(str(tmp_path / "out"), str(tmp_path / "row.parquet")), executor="local")
    assert alone == {key: in_one_process[key] for key in alone}
    assert len(alone) == 1


@pytest.mark.ray(own=True)  # whose workers have this test's credentials
@pytest.mark.s3
@pytest.mark.slow
def test_manifest_images_and_output_on_a_real_s3_server_give_the_same_files(
    rows: pa.Table, in_one_process: dict[str, str], real_s3: str
) -> None:
    for name in ("image", "mask"):
        for cell in rows[name].to_pylist():
            storage.write_bytes(f"{real_s3}/files/{name}-{cell['path']}", cell["bytes"])
    addressed = rows
    for name in ("image", "mask"):
        uris = [f"files/{name}-{cell['path']}" for cell in rows[name].to_pylist()]
        addressed = addressed.set_column(addressed.column_names.index(name), name, pa.array(uris))
    out = io.BytesIO()
    pq.write_table(addressed, out)
    storage.write_bytes(f"{real_s3}/manifest.parquet", out.getvalue())
    job = short_job(f"{real_s3}/out", f"{real_s3}/manifest.parquet", actors=1, rows_per_block=2)
    assert answers(job) == in_one_process
    assert storage.exists(f"{real_s3}/out/report.html")
    output = results.read(job.output, ["output"])["output"].to_pylist()[0]
    assert image_paths.read_image(job.output, output)[:4] == b"\x89PNG"


@pytest.mark.slow
def test_photographs_keep_every_pixel_outside_their_masks_at_native_size(tmp_path: Path) -> None:
    """Recomputed from the files: source and mask as decoded here, output as Pillow reads it."""
    job = load_job(
        "jobs/photos.yaml",
        [*SHORT, "candidates=1", "editor.params.timesteps=3", f"output={tmp_path / 'out'}", "metrics=[]"],
    )
    answers(job, executor="local")
    table = pq.read_table("manifests/photos.parquet").to_pylist()
    outputs = {row["key"]: row for row in results.read(job.output).to_pylist()}
    assert len(table) == len(outputs) >= 10
    for row in table:
        source = codec.decode_image((Path("manifests") / row["image"]).read_bytes()).pixels
        after = np.asarray(Image.open(Path(job.output) / outputs[row["key"]]["output"]).convert("RGB"))
        assert after.shape == source.shape, row["key"]
        if row["mask"] is not None:
            mask = codec.decode_mask((Path("manifests") / row["mask"]).read_bytes(), source.shape[:2])
        else:
            mask = codec.mask_from_bbox(row["bbox"], source.shape[:2])
        assert np.array_equal(after[~mask], source[~mask]), row["key"]
        assert (after[mask] != source[mask]).any(), row["key"]
        assert outputs[row["key"]]["background_changed_px"] == 0
