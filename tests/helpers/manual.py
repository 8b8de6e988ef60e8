"""Generate parts of the manual from the code: ``python -m tests.helpers.manual`` updates them.

They are between ``<!-- generated: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

import typer
from retouch.cli.app import app
from retouch.jobs.reference import job_reference, row
from retouch.manifests.describe import columns_table

from tests import ROOT

DOCUMENTS: Final = (
    "README.md",
    "jobs/README.md",
    "jobs/own-editor/README.md",
    "manifests/README.md",
    "cluster/README.md",
)
BLOCK: Final = re.compile(r"(<!-- generated: ([\w ]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def command_table() -> str:
    """Return a table of all commands with the first paragraph of their help."""
    lines = ["| command | |", "|---|---|"]
    return "\n".join([*lines, *(row((f"`{name}`", text)) for name, text in commands(typer.main.get_command(app)))])


def commands(command: object, path: str = "retouch") -> Iterator[tuple[str, str]]:
    """Yield full name and help of every command below one, sorted."""
    inner = getattr(command, "commands", None)
    if inner is None:
        text = " ".join((getattr(command, "help", None) or "").split("\n\n")[0].split())
        yield path, text
        return
    for name in sorted(inner):
        if not inner[name].hidden:
            yield from commands(inner[name], f"{path} {name}")


GENERATORS: Final[dict[str, Callable[[], str]]] = {
    "commands": command_table,
    "job fields": job_reference,
    "manifest columns": columns_table,
}


def written_again(text: str) -> str:
    """Return a document with its generated parts updated."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{GENERATORS[found[2]]().strip()}\n\n{found[4]}", text)


if __name__ == "__main__":
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(written_again(path.read_text()))
