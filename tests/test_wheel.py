"""The wheel holds the package with its data files, and nothing that only this repository needs."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from tests import ROOT

pytestmark = pytest.mark.slow

DATA = (
    "py.typed",
    "jobs/prices.yaml",
    "training/finetune/domains.json",
    "outputs/report/templates/report.html.jinja",
    "outputs/report/templates/report.css",
    "outputs/report/templates/report.js",
)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_installs_the_package_alone(names: set[str]) -> None:
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert packages == {"retouch"}, "the scripts that train the embedded models are for maintainers"


def test_the_wheel_holds_every_module_and_data_file(names: set[str]) -> None:
    package = ROOT / "pipeline" / "retouch"
    families = {name: package / "models" / "embedded" / name for name in ("shapes", "inpaint", "text_to_image")}
    weights = [path for folder in families.values() for path in folder.rglob("*") if path.is_file()]
    assert len([path for path in weights if path.suffix == ".safetensors"]) > 10
    wanted = [*package.rglob("*.py"), *weights, *(package / name for name in DATA)]
    assert {str(path.relative_to(ROOT / "pipeline")) for path in wanted} <= names


def test_the_installed_package_has_the_licence_and_its_plug_ins(names: set[str]) -> None:
    assert {name.partition(".dist-info/")[2] for name in names} >= {"licenses/LICENSE", "entry_points.txt"}
