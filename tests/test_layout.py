"""The tree keeps its own rules: folders, tests that mirror modules, a charter that names every module."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
# What these hold is data, or is reached through one door alone: test_run, test_storage and test_results go through it.
DATA = {"errors", "schema", "specs", "samples"}
BEHIND_A_DOOR = {"plan", "record", "status", "events", "plugins", "remote_files", "verification"}


def test_the_top_level_has_no_folder_but_the_agreed_ones() -> None:
    folders = {path.split("/")[0] for path in TRACKED if "/" in path}
    assert {folder for folder in folders if not folder.startswith(".")} == {
        "pipeline",
        "jobs",
        "tests",
        "cluster",
        "manifests",
    }


def modules() -> list[str]:
    return [path for path in TRACKED if path.startswith("pipeline/") and path.endswith(".py") and "__" not in path]


@pytest.mark.parametrize("path", [path for path in modules() if path.count("/") == 1])
def test_every_module_of_the_walk_has_a_test_of_its_name(path: str) -> None:
    name = Path(path).stem
    assert name in DATA | BEHIND_A_DOOR or (ROOT / "tests" / f"test_{name}.py").exists()


@pytest.mark.parametrize("path", modules())
def test_every_module_is_in_the_charter(path: str) -> None:
    parts = Path(path).with_suffix("").parts[1:]
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert parts[0] in text, f"{path} has no line in ARCHITECTURE.md"


@pytest.mark.parametrize("path", modules())
def test_no_module_is_longer_than_one_sitting(path: str) -> None:
    lines = (ROOT / path).read_text().count("\n")
    assert lines <= 330, f"{path} has {lines} lines: find the second room in it"
