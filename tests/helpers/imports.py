"""Find out what a test file imports without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from tests import ROOT

SOURCES = {"retouch": ROOT / "pipeline", "embedded_models": ROOT / "pipeline", "tests": ROOT, "manifests": ROOT}


def imported_packages(file: Path) -> set[str]:
    """Return the packages that a file imports when it is loaded, directly or through files of this repository."""
    found: set[str] = set()
    seen = {file}
    files = [file]
    while files:
        for module in _modules(files.pop()):
            package = module.partition(".")[0]
            if package not in SOURCES:
                found.add(package)
                continue
            new = [path for path in _files(module) if path not in seen]
            seen.update(new)
            files += new
    return found


@cache
def _modules(file: Path) -> frozenset[str]:
    return frozenset(_imported(ast.parse(file.read_bytes()).body))


def _imported(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the imports that run with the module: not those of functions, nor those for type checkers."""
    for statement in body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            yield from _imported(statement.orelse)
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.ClassDef):
            yield from _imported([child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)])


@cache
def _files(module: str) -> tuple[Path, ...]:
    """Return the files that an import of a module runs: each parent package's ``__init__.py``, then its own file."""
    names = module.split(".")
    folder = SOURCES[names[0]]
    found = []
    for name in names:
        found += [path for path in (folder / f"{name}.py", folder / name / "__init__.py") if path.is_file()]
        folder = folder / name
    return tuple(found)
