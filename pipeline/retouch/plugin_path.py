"""Folders of plug-ins that are not installed: last in ``sys.path``, so that no file in them replaces a library."""

from __future__ import annotations

import os
import sys
from typing import Final

VARIABLE: Final = "RETOUCH_PLUGIN_PATH"  # of the environment, set for Ray's workers: folders separated as in PATH


def extend(folders: str | None = None) -> None:
    """Append folders to ``sys.path``; without an argument those that the environment names."""
    for folder in (os.environ.get(VARIABLE, "") if folders is None else folders).split(os.pathsep):
        if folder and (path := os.path.abspath(folder)) not in sys.path:
            sys.path.append(path)


def of_this_process() -> str:
    """Return where this process finds plug-ins: the current folder, and that of the script that runs."""
    script = os.path.dirname(os.path.realpath(sys.argv[0]))
    return os.pathsep.join([os.getcwd(), *([script] if script in sys.path else [])])
