"""Run the README's commands in forked processes that share the imported libraries.

A process that has imported the libraries, and has no thread yet, forks for each command; the child calls ``main`` with
the arguments, as the installed script does. Starting an interpreter and importing torch take longer than most commands.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT

PARENT = "from tests.helpers.commands_in_turn import serve; serve()"
IMPORTED = ("diffusers.models.unets.unet_2d", "open_clip", "pydantic", "pyarrow.parquet", "ray.data", "retouch.cli.app")


@dataclass(frozen=True)
class Done:
    """A command's exit code and output."""

    returncode: int
    stdout: str
    stderr: str


class Commands:
    """Runs commands in a folder."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder

    def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Done:
        """Run ``retouch`` with these arguments and return its result."""
        outputs = [self.folder / name for name in (".stdout", ".stderr")]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"arguments": list(arguments), "environment": dict(environment), "outputs": list(map(str, outputs))}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return Done(code, *(file.read_text() for file in outputs))


@contextmanager
def commands_in(folder: Path) -> Iterator[Commands]:
    """Start a process that runs commands in this folder."""
    known = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=folder, env=known, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Commands(process, folder)
        assert process.stdin is not None
        process.stdin.close()


def serve() -> None:
    """Fork for each line of the input, and print the child's exit code."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run_command(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_command(arguments: list[str], environment: dict[str, str], outputs: list[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    from retouch.cli.app import main

    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
