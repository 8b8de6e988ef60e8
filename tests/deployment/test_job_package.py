"""What is sent of a job is complete; a job that names what the cluster would not find is refused."""

from __future__ import annotations

import datetime as dt
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from retouch.deployment.job_package import pack
from retouch.errors import ConfigError
from retouch.jobs.config import load_job

JOB: dict[str, Any] = {
    "name": "night",
    "manifest": "manifests/rows.parquet",
    "output": "s3://bucket/runs/{date}",
    "editor": {
        "name": "blended_diffusion",
        "weights": {"unet": "embedded:shapes", "clip": "open_clip:ViT-B-16/openai"},
    },
    "metrics": ["clip_score"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a job and its manifest."""
    found = tmp_path / "work"
    for name in ("jobs", "manifests", "runs"):
        (found / name).mkdir(parents=True)
    (found / "manifests/rows.parquet").touch()
    write(found)
    return found


def write(folder: Path, **changes: Any) -> str:
    path = folder / "jobs/night.yaml"
    path.write_text(yaml.safe_dump({**JOB, **changes}))
    return str(path)


def test_a_job_file_that_is_sent_alone_is_the_same_job_with_its_date_filled_in(folder: Path, tmp_path: Path) -> None:
    file, scratch = write(folder, manifest=["s3://bucket/a.parquet", "/data/b.parquet"]), tmp_path / "scratch"
    scratch.mkdir()
    package = pack(file, ["seed=3", "candidates=2"], scratch=str(scratch), options=["--limit", "4"])
    assert package.command == "cd working-dir && exec python -P -m retouch run job.yaml --address auto --limit 4"
    today = dt.datetime.now(dt.UTC).date().isoformat()
    there = load_job(str(scratch / "working-dir/job.yaml"))
    settled = [f"output=s3://bucket/runs/{today}", "carry=s3://bucket/runs/*"]
    assert there == load_job(file, ["seed=3", "candidates=2", *settled])


def test_a_job_file_in_a_folder_has_a_relative_path_and_values_pass_the_shell(folder: Path, tmp_path: Path) -> None:
    file = write(folder)
    sets = ["editor.params={preset: paper}"]
    package = pack(file, sets, scratch=str(tmp_path), working_dir=str(folder), python="uv run --locked python")
    start = "cd working-dir && exec uv run --locked python -P -m retouch run "
    assert package.command.startswith(start)
    words = shlex.split(package.command)
    assert words[12:15] == ["jobs/night.yaml", "--set", sets[0]]
    today = dt.datetime.now(dt.UTC).date().isoformat()
    assert load_job(file, words[14:17:2]).output == f"s3://bucket/runs/{today}"


def test_no_file_of_a_folder_is_where_python_would_import_it(folder: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    package = pack(write(folder), scratch=str(scratch), working_dir=str(folder))
    (inner,) = Path(package.folder).iterdir()  # Ray puts the package's folder first in sys.path
    assert not inner.name.isidentifier()
    assert inner.samefile(folder)


def test_an_evaluation_is_evaluated(folder: Path, tmp_path: Path) -> None:
    file = folder / "jobs/evaluate.yaml"
    file.write_text(yaml.safe_dump({"kind": "evaluate", "name": "e", "results": "s3://b/r", "output": "s3://b/e",
                                    "row_metrics": ["region_clip"]}))  # fmt: skip
    assert " evaluate job.yaml " in pack(str(file), scratch=str(tmp_path)).command


@pytest.mark.parametrize(
    ("changes", "sends_folder", "message"),
    [
        ({}, False, "manifest is manifests/rows.parquet, which is not sent; send the folder"),
        ({"manifest": ["s3://b/a.parquet", "more/*.parquet"]}, True, "manifest.1 is more/.*, which is not in"),
        ({"manifest": "../rows.parquet"}, True, "manifest is ../rows.parquet, which is not in"),
        ({"output": "runs/night"}, True, "output is runs/night, which on the cluster would be deleted with the job"),
        ({"manifest": "s3://b/rows", "carry": "runs/*"}, False, "carry is runs/., which is not sent"),
        ({"carry": "earlier/*"}, True, "carry is earlier/., which is not in"),
        ({"latents": "latents"}, True, "latents is latents, which on the cluster would be deleted with the job"),
        ({"editor": {"name": "x", "weights": {"unet": "models/u.pt#sha256=00"}}}, True, "editor.weights.unet is mod"),
        ({"metrics": [{"name": "clip_score", "weights": "clip.pt"}]}, True, "metrics.0.weights is clip.pt"),
    ],
)  # fmt: skip
def test_addresses_that_the_cluster_would_not_find_are_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], sends_folder: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pack(write(folder, **changes), scratch=str(tmp_path), working_dir=str(folder) if sends_folder else None)


def test_results_of_a_run_are_not_sent_with_its_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "runs/old").mkdir()
    file = folder / "jobs/evaluate.yaml"
    file.write_text(yaml.safe_dump({"kind": "evaluate", "name": "e", "results": "runs/old", "output": "s3://b/e",
                                    "row_metrics": ["region_clip"]}))  # fmt: skip
    with pytest.raises(ConfigError, match="results is runs/old, which is not in what is sent"):
        pack(str(file), scratch=str(tmp_path), working_dir=str(folder))


def test_a_job_outside_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not in .*manifests, which is what --working-dir sends"):
        pack(write(folder), scratch=str(tmp_path), working_dir=str(folder / "manifests"))
    with pytest.raises(ConfigError, match="--working-dir nowhere is no folder"):
        pack(write(folder), scratch=str(tmp_path), working_dir="nowhere")
