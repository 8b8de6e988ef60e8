"""Retouch: edit image datasets at scale. ``retouch.api`` describes the names for programs and notebooks."""
# ruff: noqa: F403, F405 - the star import is for type checkers, which look the names of __all__ up in it

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from retouch import plugin_path

if TYPE_CHECKING:
    from retouch.api import *

__all__ = [
    "Candidate",
    "Edited",
    "LoadedEditor",
    "load_editor",
    "read_edited",
    "read_results",
    "results_dataset",
    "run_job",
]


plugin_path.extend()  # here, because the class of a plug-in may come with a worker's arguments


def __getattr__(name: str) -> Any:
    # The API imports torch, which takes seconds, so it is loaded when one of its names is first used.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("retouch.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
