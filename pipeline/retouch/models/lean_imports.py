"""Modules of large libraries without all that the libraries import beside them. Knows no library.

A package's ``__init__`` often imports every module that the package has, and those import other libraries: seconds of
every process that wants one class. Nothing is copied, replaced or left half loaded: what was put off is done as soon as
anybody asks for it in the usual way.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_entered: set[str] = set()  # packages whose modules are being imported without them


@contextmanager
def without_siblings(*packages: str) -> Iterator[None]:
    """Within, these packages' modules are imported without the packages' ``__init__``.

    It runs later, when the package is asked for a name of its own, or another of its modules is imported outside.
    Packages that are there already stay as they are.
    """
    finder = _Finder()
    _entered.update(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _entered.difference_update(packages)


@contextmanager
def absent(*modules: str) -> Iterator[None]:
    """Within, importing these raises ImportError, for libraries that have another way where they are not installed."""
    before = {name: sys.modules.pop(name) for name in modules if name in sys.modules}
    finder = _Nowhere(frozenset(modules))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.modules.update(before)


def after(package: str, then: Callable[[], object]) -> None:
    """Call a function as soon as a package has been imported: now, if it is there."""
    if package in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _Followed(package, then))


def forget(package: str) -> None:
    """Let the next import of a package and its modules begin anew; who holds something of theirs keeps it."""
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


@dataclass(frozen=True)
class _PutOff:
    """What a package needs to run its ``__init__``."""

    loader: Loader
    path: Sequence[str]
    lock: threading.RLock = field(default_factory=threading.RLock)


class _Package(ModuleType):
    """A package that has not run its ``__init__`` yet."""

    def __getattr__(self, name: str) -> Any:
        if name == "__warningregistry__":  # asked of every module there is by whoever resets warnings
            raise AttributeError(name)
        put_off: _PutOff = self.__dict__["_put_off"]
        if name == "__path__" and self.__name__ in _entered:
            return put_off.path
        parent = sys.modules.get(self.__name__.rpartition(".")[0])
        if type(parent) is _Package:  # as always, a package before those within it
            _ = parent.__path__
        with put_off.lock:
            if type(self) is _Package:  # neither the parent nor another thread did it
                self.__dict__["__path__"] = put_off.path
                self.__class__ = ModuleType  # type: ignore[assignment]
                put_off.loader.exec_module(self)
        return getattr(self, name)


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python."""

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        module.__dict__["_put_off"] = _PutOff(self._loader, module.__dict__.pop("__path__"))
        module.__class__ = _Package


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in _entered else None
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader)
        return spec


@dataclass(frozen=True)
class _Nowhere(MetaPathFinder):
    modules: frozenset[str]

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        if name in self.modules:
            raise ModuleNotFoundError(f"{name} is not to be found just now", name=name)


@dataclass(frozen=True)
class _Followed(MetaPathFinder):
    """Finds one package, once, and calls a function when that has run."""

    package: str
    then: Callable[[], object]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == self.package else None
        if spec is None or spec.loader is None:
            return None
        sys.meta_path.remove(self)
        spec.loader = _Then(spec.loader, self.then)
        return spec


class _Then(Loader):
    def __init__(self, loader: Loader, then: Callable[[], object]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then()
