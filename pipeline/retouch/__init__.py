"""Retouch: edit image datasets at scale.

What is here for programs and notebooks is described in ``retouch.api``; it is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retouch import plugin_path

if TYPE_CHECKING:
    from retouch.api import (
        Candidate,
        Edited,
        LoadedEditor,
        load_editor,
        read_edited,
        read_results,
        results_dataset,
        run_job,
    )

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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from retouch import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
