"""The tree keeps its own rules: its folders, tests that mirror the packages, a description of each package."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests import ROOT

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
PACKAGE = "pipeline/retouch/"
INSIDE = [Path(path.removeprefix(PACKAGE)) for path in TRACKED if path.startswith(PACKAGE) and path.endswith(".py")]
ROOMS = sorted({path.parts[0] for path in INSIDE if len(path.parts) > 1})
# Folders of tests that mirror no package: of examples, of whole commands, of data, and what tests share.
OF_NO_ROOM = {"manifests_shipped", "benchmarks", "chaos", "cluster", "embedded_models", "golden", "helpers"}


def test_the_top_level_has_no_folder_but_the_agreed_ones() -> None:
    folders = {path.split("/")[0] for path in TRACKED if "/" in path}
    agreed = {"pipeline", "jobs", "tests", "cluster", "manifests", "docs"}
    assert {folder for folder in folders if not folder.startswith(".")} <= agreed


def test_the_package_has_few_rooms_and_few_loose_modules() -> None:
    assert 12 <= len(ROOMS) <= 14
    assert len([path for path in INSIDE if len(path.parts) == 1 and "__" not in path.name]) <= 10
    assert {path.split("/")[1] for path in TRACKED if path.startswith("pipeline/")} == {"retouch", "embedded_models"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_tests_and_a_line_in_the_architecture(room: str) -> None:
    assert any(path.startswith(f"tests/{room}/") for path in TRACKED)
    assert f"{room}/" in (ROOT / "ARCHITECTURE.md").read_text()


def test_tests_mirror_the_packages() -> None:
    tests = [path for path in TRACKED if path.startswith("tests/") and path.endswith(".py")]
    folders = {Path(path).parent.relative_to("tests") for path in tests}
    inside = {path.parent for path in INSIDE}
    assert [str(f) for f in sorted(folders) if f.parts and f.parts[0] not in OF_NO_ROOM and f not in inside] == []


@pytest.mark.parametrize("path", [str(path) for path in INSIDE if path.name == "__init__.py"])
def test_every_package_says_what_it_is_for(path: str) -> None:
    text = (ROOT / PACKAGE / path).read_text()
    assert text.startswith('"""')
    assert "TODO" not in text
