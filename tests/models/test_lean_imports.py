"""A module is imported without its package's other modules, which come as soon as they are asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from retouch.models.lean_imports import absent, after, forget, without_siblings


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose ``__init__`` imports all that it has."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from shelf.heavy import HEAVY\nfrom shelf.light import LIGHT\nNAME = 'shelf'\n"
    )
    (folder / "light.py").write_text("LIGHT = object()\n")
    (folder / "heavy.py").write_text("HEAVY = object()\n")
    (folder / "choosy.py").write_text("try:\n    import colorsys\nexcept ImportError:\n    colorsys = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "shelf"
    forget("shelf")


def light(package: str) -> object:
    with without_siblings(package):
        return importlib.import_module(f"{package}.light").LIGHT


def test_a_module_comes_without_its_siblings(package: str) -> None:
    light(package)
    assert "shelf.heavy" not in sys.modules


def test_a_name_of_the_package_brings_all_of_it_and_the_same_module(package: str) -> None:
    found = light(package)
    shelf = importlib.import_module(package)
    assert "shelf.heavy" not in sys.modules
    assert shelf.NAME == "shelf"
    assert shelf.LIGHT is found
    assert "shelf.heavy" in sys.modules


def test_another_module_imported_in_the_usual_way_brings_all_of_the_package(package: str) -> None:
    light(package)
    importlib.import_module("shelf.choosy")
    assert "shelf.heavy" in sys.modules


def test_a_name_that_the_package_does_not_have_is_missing(package: str) -> None:
    light(package)
    with pytest.raises(AttributeError):
        _ = importlib.import_module(package).nothing


def test_a_package_that_is_there_stays_as_it_is(package: str) -> None:
    there = importlib.import_module(package)
    with without_siblings(package):
        assert importlib.import_module(package) is there
    assert there.NAME == "shelf"


def test_a_package_within_another_runs_after_it(package: str, tmp_path: Path) -> None:
    inner = tmp_path / "shelf" / "inner"
    inner.mkdir()
    (inner / "__init__.py").write_text("import shelf\n\nOUTER = shelf.NAME\n")
    (inner / "leaf.py").write_text("")
    with without_siblings(package, "shelf.inner"):
        importlib.import_module("shelf.inner.leaf")
    assert importlib.import_module("shelf.inner").OUTER == "shelf"


def test_what_is_absent_is_there_again_afterwards(package: str) -> None:
    with absent("colorsys"), without_siblings(package):
        assert importlib.import_module("shelf.choosy").colorsys is None
    assert importlib.import_module("colorsys").rgb_to_hsv(0, 0, 0) == (0, 0, 0)


def test_a_forgotten_package_is_imported_anew(package: str) -> None:
    found = light(package)
    forget(package)
    assert importlib.import_module(package).LIGHT is not found


def test_what_is_absent_and_loaded_is_the_same_afterwards(package: str) -> None:
    there = importlib.import_module(package)
    with absent(package), pytest.raises(ModuleNotFoundError, match=package):
        importlib.import_module(package)
    assert importlib.import_module(package) is there


def test_a_function_is_called_when_a_package_has_run(package: str) -> None:
    names: list[str] = []
    after(package, lambda: names.append(sys.modules[package].NAME))
    assert names == []
    assert importlib.import_module(package).__spec__ is not None
    assert names == ["shelf"]
    after(package, lambda: names.append("at once"))
    assert names == ["shelf", "at once"]
    forget(package)
    importlib.import_module(package)
    assert names == ["shelf", "at once"], "one import was asked for, not all"
