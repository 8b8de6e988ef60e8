"""The package that authors of editors start from is built, installed, listed, run, and passes its own tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from retouch import read_edited, read_results
from retouch.imaging import regions

from tests import ROOT

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "jobs/own-editor"
BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of an environment that has the package beside ours: its wheel, unpacked as an installer does."""
    folder = tmp_path_factory.mktemp("own-editor")
    source = Path(shutil.copytree(PACKAGE, folder / "source"))  # building leaves nothing in the tree
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return {**os.environ, "PYTHONPATH": str(folder / "site")}


def test_its_manual_shows_the_commands_that_are_run_here() -> None:
    shown = re.findall(r"```sh\n(.*?)```", (PACKAGE / "README.md").read_text(), re.DOTALL)
    assert shown == [
        "retouch plugins inpaint\nretouch run jobs/own-editor/job.yaml --executor local\npytest jobs/own-editor\n"
    ]


def done(environment: dict[str, str], folder: Path, *command: str) -> str:
    run = subprocess.run(
        [sys.executable, "-P", "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    return run.stdout


def test_it_is_listed_with_its_package_and_its_parameters(environment: dict[str, str]) -> None:
    (found,) = json.loads(done(environment, ROOT, "retouch", "plugins", "inpaint", "--json"))
    assert (found["package"], found["inputs"]) == ("retouch-inpaint 0.1.0", ["mask"])
    assert found["columns"] == {"seam": "float64"}
    assert {field["path"]: field["meaning"] for field in found["params"]}["radius"].startswith("Pixels around each")


def test_its_job_runs_by_the_name_and_fills_the_masks_in(environment: dict[str, str], tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    job = ["jobs/own-editor/job.yaml", "--set", f"output={output}", "--executor", "local", "--limit", "6"]
    assert "rows: 6 = 6 success" in done(environment, ROOT, "retouch", "run", *job)
    for row in read_results(output).to_pylist():
        edited = read_edited(output, row["key"])
        assert row["background_changed_px"] == 0
        assert regions.changed_outside(edited.source, edited.image, edited.mask) == 0
        assert (edited.image != edited.source)[edited.mask].any()
        around, filled = edited.source[~edited.mask].astype(int), edited.image[edited.mask].astype(int)
        assert (filled >= around.min(axis=0) - 4).all(), "made of what surrounds it"
        assert (filled <= around.max(axis=0) + 4).all()
        assert row["seam"] >= 0


def test_its_own_tests_pass(environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copy(PACKAGE / "test_retouch_inpaint.py", tmp_path)
    assert "4 passed" in done(environment, tmp_path, "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path))
